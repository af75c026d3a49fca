"""The OpenAPI document of the collector, made from `schema.OPERATIONS`."""

from __future__ import annotations

from typing import Any

from tracer.schema import OPERATIONS, Operation, json_schema
from tracer.version import __version__

__all__ = ["document"]

_ERROR = {
    "description": "What every error looks like.",
    "type": "object",
    "properties": {
        "statusCode": {"type": "integer"},
        "message": {"type": "string"},
        "success": {"const": False},
        "errorCode": {"type": "string"},
    },
    "required": ["statusCode", "message", "success", "errorCode"],
}


def document() -> dict[str, Any]:
    """Return the document (OpenAPI 3.1, whose schemas are JSON Schema 2020-12)."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {"Error": _ERROR}
    for operation in OPERATIONS:
        for record in (operation.body, operation.answer):
            if record is not None:
                schemas[record.__name__] = json_schema(record)
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tracer collector", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}, {}],
    }


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": f"{operation.group}_{operation.name}",
        "tags": [operation.group],
        "summary": operation.summary,
        "responses": {
            "200": {
                "description": json_schema(operation.answer)["description"],
                "content": _json(operation.answer.__name__),
            },
            "default": {"description": "The request was not done.", "content": _json("Error")},
        },
    }
    if operation.path_parameters:
        found["parameters"] = [
            {"name": n, "in": "path", "required": True, "schema": {"type": "string"}}
            for n in operation.path_parameters
        ]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _json(operation.body.__name__)}
    return found


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
