"""What is masked, what is left alone, and that the rest of a payload stays as it was."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.errors import ConfigError
from tracer.keynames import SECRET, judge
from tracer.redact import Redactor
from tracer.rules import FOLD, KEY_NEEDLES, MASK, RULES

redact = Redactor()

OPENAI = "sk-proj-abcDEF1234567890abcdefgh"
BENIGN_NAMES = """
    session_id sessionId session_name max_tokens maxTokens prompt_tokens completion_tokens
    total_tokens token_count tokens tokenizer token_type token_usage next_page_token pageToken
    continuation_token sync_token eos_token bos_token pad_token time_to_first_token author authors
    authority author_id authored authorized authentication secretary secretariat passage passenger
    passed compass bypass passive passport password_policy password_length password_hint
    has_password is_secret max_secrets cookie_policy cookies_enabled cookie_consent api_key_id
    api_key_name secret_name private_key_path key keys primary_key foreign_key cache_key sort_key
    idempotency_key public_key keyword monkey access_level accessed credentialing basic bearing
    authorization_url authorization_endpoint ssn_valid classname cvvalid card cards discard
    card_type last4 signature design fpwd_total pwdx
"""
MASKED_NAMES = """
    password Password PASSWORD passwd pwd PWD db_password dbPassword DB-PASSWORD PGPASSWORD
    mysql_pwd user_password password2 new_password password_hash passphrase secret secrets
    client_secret clientSecret CLIENT_SECRET webhook_secret secret_key secretKey
    aws_secret_access_key api_key apikey apiKey API-KEY APIKey X-Api-Key x-api-key openai_api_key
    OPENAI_API_KEY api-key-2 access_token accessToken refresh_token id_token auth_token authToken
    session_token aws_session_token X-Amz-Security-Token csrf_token bearer bearer_token
    authorization Authorization proxy-authorization Proxy-Authorization cookie Cookie set-cookie
    Set-Cookie cookies private_key privateKey PRIVATE_KEY private_key_pem signing_key access_key
    AccountKey account-key credentials credential db_pass smtp_pass ssn SSN user_ssn cvv card_cvv
    cvc card_number cardNumber CARD-NUMBER
"""


def masked(value: Any, by: Redactor = redact) -> Any:
    return orjson.loads(by(orjson.dumps(value)))


def untouched(value: Any, by: Redactor = redact) -> bool:
    encoded = orjson.dumps(value)
    return by(encoded) is encoded


# -- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKED_NAMES.split())
def test_value_under_a_secret_name_is_masked(name: str) -> None:
    assert masked({"a": 1, name: "x7"}) == {"a": 1, name: MASK}


@pytest.mark.parametrize("name", BENIGN_NAMES.split())
def test_value_under_a_benign_name_stays(name: str) -> None:
    assert untouched({name: "abc"})
    assert untouched({"text": f"{name}=abc1 and {name}: abc1"})


def test_token_alone_is_secret_only_if_its_value_looks_like_one() -> None:
    assert untouched({"logprobs": [{"token": " Hello", "logprob": -0.1}]})
    assert untouched({"next_page_token": "f3a9c1d2e4b5f6a7", "token": {"text": "f3a9c1d2e4b5f6a7"}})
    assert masked({"token": "f3a9c1d2e4b5f6a7"}) == {"token": MASK}


def test_shape_below_a_secret_name_stays() -> None:
    given_ = {
        "credentials": {"user": "bob", "n": 3, "on": True, "none": None, "list": ["a", ["b"]]}
    }
    assert masked(given_) == {
        "credentials": {"user": MASK, "n": 3, "on": True, "none": None, "list": [MASK, [MASK]]}
    }


def test_numbers_are_masked_where_a_number_can_be_the_secret() -> None:
    assert masked({"cvv": 123, "password": 12345}) == {"cvv": MASK, "password": MASK}
    assert untouched({"secrets": 3, "cookies": 5, "api_keys": 2, "password": None, "secret": True})


def test_schema_of_a_tool_keeps_its_words_and_loses_its_examples() -> None:
    schema = {"password": {"type": "string", "description": "The password of the user"}}
    assert untouched({"properties": schema})
    assert masked({"api_key": {"type": "string", "default": "hunter2"}}) == {
        "api_key": {"type": "string", "default": MASK}
    }


def test_pairs_of_name_and_value_are_masked() -> None:
    assert masked([["Accept", "*/*"], ["Authorization", "abc"]]) == [
        ["Accept", "*/*"],
        ["Authorization", MASK],
    ]
    for name, value in product(("name", "key"), ("value",)):
        assert masked([{name: "api_key", value: "abc"}]) == [{name: "api_key", value: MASK}]
        assert masked([{value: "abc", name: "api_key"}]) == [{value: MASK, name: "api_key"}]
    assert untouched({"required": ["password", "email"]})


# -- texts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=hunter2 then", "password=[redacted] then"),
        ("PASSWORD=hunter\nHOME=/root", "PASSWORD=[redacted]\nHOME=/root"),
        ("password: hunter2", "password: [redacted]"),
        ("Server=a;Password=abc;Port=1", "Server=a;Password=[redacted];Port=1"),
        ("{'api_key': 'abc', 'n': 1}", "{'api_key': '[redacted]', 'n': 1}"),
        ('log: {"secret": "a\\b", "n"', 'log: {"secret": "[redacted]", "n"'),
        ('log: {"secret": "cut off', 'log: {"secret": "[redacted]'),
        ("X-Api-Key: abc123\r\nHost: a", "X-Api-Key: [redacted]\r\nHost: a"),
        ("Authorization: Bearer abc1\r\n", "Authorization: Bearer [redacted]\r\n"),
        ("Cookie: sid=abc; b=c\r\nHost: a", "Cookie: [redacted]\r\nHost: a"),
        ("curl --password hunter2 url", "curl --password [redacted] url"),
        ("run --api-key=abc1 x", "run --api-key=[redacted] x"),
        ("/a?access_token=abc1&b=c", "/a?access_token=[redacted]&b=c"),
        ("-u postgres://u:p@ss@h/d", "-u postgres://u:[redacted:url_password]@h/d"),
        (f"a {OPENAI}.", "a [redacted:openai]."),
        (r"a\ntoken=f3a9c1d2e4b5f6a7", r"a\ntoken=[redacted]"),
        (f"ftp://u:p+{OPENAI}@h", "ftp://u:[redacted:url_password]@h"),
        ("ssn: 123-45-6789", "ssn: [redacted]"),
        ("4111-1111-1111-1111!", "[redacted:card]!"),
    ],
)
def test_secret_in_a_text_is_masked_and_the_rest_stays(text: str, expected: str) -> None:
    assert masked({"a": [text]}) == {"a": [expected]}
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "the password is strong, and the secret: it must be long",
        "password: required, at least twelve letters",
        "login(user, password=password, token=token)",
        "api_key = os.environ['API_KEY']",
        "def f(api_key: str, password=None): ...",
        "password=self.password\nsecret = get_secret()",
        "Basic understanding of bearer authentication is required",
        "risk-averse-strategies-for-pension-funds",
        "postgres://user@host/db and http://host:8080/@me and a@b.c",
        "1234 5678 9012 3456 and 4111111111111112 and 1732500000000",
        "connect(password=entered) and password=user_password\nor password=None\n",
        'headers["Authorization"] = "Basic %s" % encoded',
        "export OPENAI_API_KEY=$OPENAI_API_KEY",
        "headers = {'Authorization': f'Bearer {token}'}",
        "-----BEGIN PRIVATE KEY----- is how such a file begins",
        "hh_session_name_of_the_run",
    ],
)
def test_text_about_secrets_stays(text: str) -> None:
    assert untouched({"a": text})
    assert untouched({"a": json.dumps({"b": text})})


def test_json_inside_strings_is_masked_at_any_depth() -> None:
    value: Any = {"password": ["a b c", {"pin": "d"}], "n": 1}
    for _ in range(3):
        value = {"arguments": json.dumps(value)}
    found = masked(value)
    for _ in range(3):
        found = json.loads(found["arguments"])
    assert found == {"password": [MASK, {"pin": MASK}], "n": 1}


def test_card_number_that_is_a_number_becomes_text() -> None:
    assert masked({"a": 4111111111111111, "b": 4111111111111112}) == {
        "a": "[redacted:card]",
        "b": 4111111111111112,
    }
    assert untouched({"vector": [0.4111111111111111, 4111111111111111.5e3]})


def test_card_number_among_other_groups_of_digits_is_found() -> None:
    for card in ("4111111111111111", "4111 1111 1111 1111", "378282246310005", "3782 822463 10005"):
        for before in ("", "1234 5678 ", "1990 1991 1992 1993 ", "ids 123456789012345 "):
            assert masked(f"{before}{card} x") == f"{before}[redacted:card] x"


def test_secrets_as_keys_are_masked_and_none_hides_another() -> None:
    one, two = OPENAI, OPENAI[:-1] + "x"
    found = masked({one: 1, two: 2, "credentials": {one: "a", two: "b"}})
    assert OPENAI[8:-1] not in json.dumps(found)
    assert [found.popitem()[0], len(found), sorted(found.values())] == ["credentials", 2, [1, 2]]


# -- the search --------------------------------------------------------------------------------


def test_needles_are_few_and_long_enough_for_the_fast_search() -> None:
    needles = {*KEY_NEEDLES, *(needle for rule in RULES for needle in rule.needles)}
    assert len(needles) <= 64
    assert min(map(len, needles)) >= 4
    assert all(needle.encode().translate(FOLD).decode() == needle for needle in needles)


def test_no_needle_hides_the_beginning_of_another() -> None:
    """The search tells of two overlapping needles the first alone."""
    owners: dict[str, set[str]] = {needle: {"name"} for needle in KEY_NEEDLES}
    for rule in RULES:
        for needle in rule.needles:
            owners.setdefault(needle, set()).update(rule.pattern.groupindex)
    hidden = [
        (one, other)
        for one, other in product(owners, owners)
        if one != other and owners[one] != owners[other]
        if other in one or any(other.startswith(one[at:]) for at in range(1, len(one) - 1))
        # `…key` and `eyJ…`: a JWT does not begin inside a word
        if not (one.endswith("ey") or (one.endswith("key") and other.startswith("eyj")))
    ]
    assert hidden == []


def test_secret_names_are_secret_to_the_judge_and_found_by_the_search() -> None:
    assert {name for name in MASKED_NAMES.split() if judge(name) != SECRET} == set()


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["sk", "card", "name", "url"]))
def test_whatever_is_around_a_secret_stays_and_the_json_is_valid(a: str, b: str, kind: str) -> None:
    secret, shown = {
        "sk": (OPENAI, "[redacted:openai]"),
        "card": ("4111 1111 1111 1111", "[redacted:card]"),
        "name": ("; api_key='abc12'", "; api_key='[redacted]'"),
        "url": ("ftp://u:pw@h", "ftp://u:[redacted:url_password]@h"),
    }[kind]
    around = f"{a} {secret} {b}"
    found = masked([around])[0]
    assert found == f"{a} {shown} {b}" or "redacted" in a + b
    assert untouched([found])


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.floats(allow_nan=False)
        | st.text()
        | st.integers(-9, 10**18),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_comes_back_and_no_field_fails(value: Any) -> None:
    mine = Redactor()
    assert masked({"password": "x", "value": value}, mine)["password"] == MASK
    orjson.loads(mine(orjson.dumps(value)))
    assert mine.failed == 0


def test_masking_twice_changes_nothing() -> None:
    first = redact(
        orjson.dumps({"a": f"x {OPENAI}", "password": "x", "u": "ftp://u:pw@h", "t": "pwd=a1b2"})
    )
    assert redact(first) is first


# -- what users add ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["customer_id", "customerId", "CUSTOMER-ID", "X-Customer-Id"])
def test_own_names_are_masked_in_every_spelling(name: str) -> None:
    own = Redactor(keys=["customer-id"])
    assert masked({name: "a", "n": [{name: 5}]}, own) == {name: MASK, "n": [{name: MASK}]}
    assert untouched({"customer": "a", "customer_id_type": "b", "id": 5}, own)
    assert untouched({name: "a"})


def test_own_name_beside_the_rules_hides_none_of_them() -> None:
    own = Redactor(keys=["my sk"])
    assert masked({"my_sk": "a", "text": f"my {OPENAI}"}, own) == {
        "my_sk": MASK,
        "text": "my [redacted:openai]",
    }


def test_own_patterns_are_masked_everywhere() -> None:
    own = Redactor(patterns=[r"EMP-\d{4}", re.compile("(?i)falcon")])
    assert masked({"a": ["is EMP-1234 on Falcon"], "EMP-9999": 1}, own) == {
        "a": ["is [redacted:pattern] on [redacted:pattern]"],
        "[redacted:pattern]": 1,
    }
    assert untouched({"a": "EMP-12"}, own)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patterns": ["a(b"]}, r"^redact_patterns\[0\]: is no regular expression: missing \)"),
        ({"patterns": ["a", "x*"]}, r"^redact_patterns\[1\]: matches the empty text"),
        ({"patterns": [b"a"]}, r"^redact_patterns\[0\]: must be a pattern of text"),
        ({"patterns": [5]}, r"^redact_patterns\[0\]: is no regular expression"),
        ({"patterns": "abc"}, r"^redact_patterns: must be a list"),
        ({"keys": "abc"}, r"^redact_keys: must be a list"),
        ({"keys": ["abc", "-_"]}, r"^redact_keys\[1\]: must be a name with at least 3 .*not '-_'"),
        ({"keys": [5]}, r"^redact_keys\[0\]: must be a name"),
    ],
)
def test_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Redactor(**options)


def test_hook_gets_what_the_rules_left_and_has_the_last_word() -> None:
    seen: list[Any] = []

    def hook(value: Any) -> Any:
        seen.append(value)
        return {"kept": value["n"]}

    assert masked({"password": "x", "n": 1}, Redactor(hook=hook)) == {"kept": 1}
    assert seen == [{"password": MASK, "n": 1}]


def test_findings_tell_place_and_rule_and_never_the_secret() -> None:
    text = f"one\ntwo {OPENAI}\npassword=hunter2"
    encoded = orjson.dumps({"a": [{"b": text}], "headers": {"Cookie": "sid=1"}, OPENAI: 1})
    _, found = redact.look(encoded)
    assert [(f.path, f.line, f.rule, f.shown) for f in found] == [
        ("a[0].b", 2, "openai", "[redacted:openai]"),
        ("a[0].b", 3, "name", "[redacted]"),
        ("headers.Cookie", 1, "name", "[redacted]"),
        ("", 1, "openai", "[redacted:openai]"),
    ]
