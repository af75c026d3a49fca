"""The OpenAPI document says what `tracer.schema` says."""

from __future__ import annotations

import json
import re

from tracer.collector.openapi import document
from tracer.schema import OPERATIONS, json_schema


def test_it_has_every_operation_and_no_other() -> None:
    found = {
        (path, method.upper())
        for path, methods in document()["paths"].items()
        for method in methods
    }
    assert found == {(o.path, o.method) for o in OPERATIONS}


def test_bodies_and_answers_are_the_schemas() -> None:
    schemas = document()["components"]["schemas"]
    for operation in OPERATIONS:
        for record in (operation.body, operation.answer):
            if record is not None:
                assert schemas[record.__name__] == json_schema(record)


def test_every_reference_leads_somewhere() -> None:
    whole = document()
    named = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(whole)))
    assert named == set(whole["components"]["schemas"])


def test_path_parameters_are_described() -> None:
    for operation in OPERATIONS:
        described = document()["paths"][operation.path][operation.method.lower()]
        names = tuple(p["name"] for p in described.get("parameters", ()))
        assert names == operation.path_parameters


def test_operation_ids_are_unique() -> None:
    ids = [o["operationId"] for path in document()["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids))
