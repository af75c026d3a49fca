"""Secrets in every position, and texts that hold none; the same in every run."""

from __future__ import annotations

import argparse
import base64
import getpass
import http.client
import inspect
import json
import netrc
import random
import smtplib
import ssl
import string
import textwrap
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pydoc_data.topics import topics
from typing import Any

SMALL, BIG = string.ascii_lowercase + string.digits, string.ascii_letters + string.digits
URLSAFE = BIG + "-_"


def _text(random_: random.Random, alphabet: str, length: int) -> str:
    return "".join(random_.choices(alphabet, k=length))


def _base64(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def _card(random_: random.Random, prefix: str, length: int) -> str:
    digits = prefix + _text(random_, string.digits, length - len(prefix) - 1)
    total = sum(
        int(d) if at % 2 else sum(divmod(int(d) * 2, 10)) for at, d in enumerate(reversed(digits))
    )
    return digits + str(-total % 10)


def _pem(random_: random.Random, label: str) -> str:
    body = "\n".join(textwrap.wrap(_text(random_, BIG + "+/", 300), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"


# kind -> a secret, and the part of it that must not be there afterwards
KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {}


def _kind(name: str, prefix: str, alphabet: str, length: int, suffix: str = "") -> None:
    def make(random_: random.Random) -> tuple[str, str]:
        body = _text(random_, alphabet, length)
        return prefix + body + suffix, body

    KINDS[name] = make


for _args in (
    ("openai", "sk-", BIG, 48),
    ("openai project", "sk-proj-", URLSAFE, 120),
    ("openrouter", "sk-or-v1-", "0123456789abcdef", 64),
    ("anthropic", "sk-ant-api03-", URLSAFE, 95),
    ("google", "AIza", URLSAFE, 35),
    ("aws", "AKIA", string.ascii_uppercase + "234567", 16),
    ("aws session", "ASIA", string.ascii_uppercase + "234567", 16),
    ("github", "ghp_", BIG, 36),
    ("github oauth", "gho_", BIG, 36),
    ("github app", "ghs_", BIG, 36),
    ("github fine-grained", "github_pat_", BIG + "_", 82),
    ("gitlab", "glpat-", URLSAFE, 20),
    ("slack bot", "xoxb-123456789012-", BIG, 24),
    ("slack user", "xoxp-123456789012-", BIG, 24),
    ("stripe", "sk_live_", BIG, 24),
    ("stripe restricted", "rk_live_", BIG, 24),
    ("huggingface", "hf_", string.ascii_letters, 34),
    ("npm", "npm_", BIG, 36),
    ("pypi", "pypi-AgEIcHlwaS5vcmc", URLSAFE, 120),
    ("honeyhive", "hh_", BIG, 32),
    ("langsmith", "lsv2_pt_", "0123456789abcdef", 32, "_0123456789"),
    ("bearer", "Bearer ", URLSAFE, 40),
):
    _kind(*_args)


def _sendgrid(r: random.Random) -> tuple[str, str]:
    body = _text(r, URLSAFE, 43)
    return f"SG.{_text(r, URLSAFE, 22)}.{body}", body


def _jwt(r: random.Random) -> tuple[str, str]:
    body = _text(r, URLSAFE, 43)
    head, claims = {"alg": "HS256", "typ": "JWT"}, {"sub": _text(r, SMALL, 8), "iat": 1732500000}
    return f"{_base64(head)}.{_base64(claims)}.{body}", body


def _basic(r: random.Random) -> tuple[str, str]:
    body = base64.b64encode(f"{_text(r, SMALL, 6)}:{_text(r, BIG, 12)}".encode()).decode()
    return f"Basic {body}", body


def _private_key(r: random.Random) -> tuple[str, str]:
    kind = r.choice(("RSA PRIVATE KEY", "PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY"))
    text = _pem(r, kind)
    return text, text.splitlines()[3]


def _database(r: random.Random) -> tuple[str, str]:
    scheme = r.choice(("postgresql", "mysql", "mongodb+srv", "redis", "amqp", "https"))
    body = _text(r, BIG + "!$*", 12)
    return f"{scheme}://app:{body}@db.example.com/main", body


def _query(r: random.Random) -> tuple[str, str]:
    name = r.choice(("api_key", "access_token", "token", "client_secret"))
    body = _text(r, SMALL, 31) + "7"
    return f"https://example.com/v1/items?page=2&{name}={body}&sort=asc", body


def _signed(r: random.Random) -> tuple[str, str]:
    body = _text(r, "0123456789abcdef", 64)
    return f"https://bucket.s3.amazonaws.com/a.png?X-Amz-Expires=900&X-Amz-Signature={body}", body


def _payment(r: random.Random) -> tuple[str, str]:
    prefix, length = r.choice((("4", 16), ("53", 16), ("2345", 16), ("37", 15), ("6011", 16)))
    number = _card(r, prefix, length)
    between = r.choice(("", " ", "-"))
    groups = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
    parts, at = [], 0
    for size in groups:
        parts.append(number[at : at + size])
        at += size
    return between.join(parts), between.join(parts)


KINDS |= {
    "sendgrid": _sendgrid,
    "jwt": _jwt,
    "basic": _basic,
    "private key": _private_key,
    "database": _database,
    "query": _query,
    "signed url": _signed,
    "card": _payment,
}

NAMES = (
    *("password", "passwd", "PWD", "db_password", "dbPassword", "DB-PASSWORD", "PGPASSWORD"),
    *("secret", "client_secret", "clientSecret", "aws_secret_access_key", "secretKey"),
    *("api_key", "apikey", "apiKey", "API-KEY", "X-Api-Key", "x-api-key", "OPENAI_API_KEY"),
    *("access_token", "accessToken", "refresh_token", "id_token", "auth_token", "session_token"),
    *("authorization", "Authorization", "Proxy-Authorization", "private_key", "privateKey"),
    *("credentials", "cookie", "Set-Cookie", "bearer", "passphrase", "signing_key", "AccountKey"),
)
NUMBER_NAMES = ("ssn", "cvv", "cvc", "card_number", "cardNumber")


def _places(secret: str, r: random.Random) -> Iterator[tuple[str, Any]]:
    yield "value", {"question": "what is this?", "data": secret}
    yield "alone", secret
    yield "nested", {"a": [{"b": {"c": ["x", secret]}}], "n": 5}
    yield "in a sentence", {"text": f"Please use {secret} for the call, and delete it later."}
    yield "behind a line break", {"text": f"first line\n{secret}\nlast line"}
    yield "JSON in a string", {"arguments": json.dumps({"data": secret, "n": 1})}
    yield "JSON in JSON in a string", {"body": json.dumps({"arguments": json.dumps([secret])})}
    yield "key", {secret: r.randint(1, 9)}
    yield "behind other scripts", {"text": f"密钥「{secret}」。"}
    yield "repr", {"text": repr({"headers": {"x": secret}})}


def _named(name: str, secret: str) -> Iterator[tuple[str, Any]]:
    yield "member", {"user": "bob", name: secret}
    yield "nested", {"config": [{"env": {name: secret}}]}
    yield "JSON in a string", {"arguments": json.dumps({name: secret, "n": 1})}
    yield "JSON in JSON in a string", {"a": json.dumps({"b": json.dumps({name: secret})})}
    yield "pairs", {"headers": [["accept", "*/*"], [name, secret]]}
    yield "name and value", {"headers": [{"name": name, "value": secret}]}
    yield "value and name", {"env": [{"value": secret, "name": name}]}
    yield "repr", {"text": f"called with { ({name: secret, 'n': 1})!r}"}
    yield "environment", {"text": f"HOME=/root\n{name}={secret}\nLANG=C"}
    yield "list", {name: [secret, {"inner": secret}]}
    yield "part of JSON", {"text": 'got {"id": 1, ' + f'"{name}": "{secret}", "n"'}


def secrets() -> list[tuple[str, Any, str]]:
    """Return (what and where, payload, what must not be in it afterwards)."""
    r = random.Random(70)  # noqa: S311 - the same in every run
    found: list[tuple[str, Any, str]] = []
    for kind, make in KINDS.items():
        for _ in range(3):
            whole, part = make(r)
            for place, payload in _places(whole, r):
                # json and repr write a line break as \n: what must be gone is one line
                found.append((f"{kind}, {place}", payload, part))
    for name in NAMES:
        value = _text(r, BIG, 11) + "7"
        if "cookie" in name.lower():
            value = f"sid={value}"
        found += [(f"{name}, {place}", payload, value) for place, payload in _named(name, value)]
    for name in NUMBER_NAMES:
        number = str(r.randint(100, 999))
        marked = {"cvv": number, "cvc": number}.get(name, _text(r, "123456789", 9))
        found.append((f"{name}, text", {name: marked}, marked))
        found.append((f"{name}, number", {name: int(marked)}, marked))
        found.append((f"{name}, in text", {"text": f"the {name}: {marked} of the form"}, marked))
    return found


def benign() -> list[tuple[str, Any]]:
    """Return at least 10,000 (where from, payload) without a secret."""
    r = random.Random(71)  # noqa: S311 - the same in every run
    found: list[tuple[str, Any]] = []
    for name, text in topics.items():
        for paragraph in text.split("\n\n"):
            found.append((f"topic {name}", {"text": paragraph}))
            found += [(f"topic {name}", s) for s in paragraph.split(". ") if len(s) > 20]
    for module in (argparse, http.client, smtplib, ssl, netrc, getpass, urllib.request):
        lines = inspect.getsource(module).splitlines()
        for at in range(0, len(lines), 12):
            code = "\n".join(lines[at : at + 12])
            found.append((f"code {module.__name__}", {"file": "a.py", "content": code}))
    for _ in range(400):
        found += [("generated", made) for made in _generated(r)]
    return found


def _generated(r: random.Random) -> Iterator[Any]:
    now = r.randint(1_600_000_000, 1_800_000_000)
    yield {"id": str(uuid.UUID(int=r.getrandbits(128))), "sha256": f"{r.getrandbits(256):064x}"}
    yield {"ms": now * 1000, "ns": now * 10**9 + r.randint(0, 10**9), "us": now * 10**6}
    yield {"order": f"ORD-{r.randint(10**9, 10**10)}", "tracking": f"1Z{r.randint(10**15, 10**16)}"}
    yield {"image": "data:image/png;base64," + base64.b64encode(r.randbytes(300)).decode()}
    yield {"price": f"${r.random() * 1000:,.2f}", "rate": r.random(), "phone": "+1 415 555 0132"}
    yield {"vector": [r.random() * 2 - 1 for _ in range(8)], "tokens": r.randint(1, 4000)}
    yield {
        "usage": {"prompt_tokens": now % 999, "completion_tokens": 7, "total_tokens": now % 1006}
    }
    yield {"session_id": f"{r.getrandbits(64):016x}", "author": "Ann", "next_page_token": "CAUQAA"}
    yield {"url": f"https://example.com/a/{now}?page=2&q=token+bucket", "mail": "ann@example.com"}
    yield {"snowflake": str(r.randint(10**17, 10**18)), "version": "1.2.3.4"}
    yield f"{r.choice(('def', 'class'))} f{now}(password: str, api_key=None): return {now}"
    yield json.dumps({"max_tokens": 5, "stop": ["</s>"], "cache_key": f"{r.getrandbits(64):x}"})
