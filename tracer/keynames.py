"""Which names of members, headers and variables say that their value is a secret.

A name is judged by its whole words, never by a part of one: `authorization` is secret, `author` is
not; `access_token` is, `max_tokens` and `next_page_token` are not.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["NO", "SECRET", "UNSURE", "judge", "takes_numbers", "words_of"]

NO, UNSURE, SECRET = 0, 1, 2  # UNSURE: only if the value looks like one made by a machine


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# camelCase, snake_case, kebab-case, dots, blanks; `APIKey` is `api key`
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")

_WHOLE = _set(
    "password passwords passwd passphrase passcode pwd secret secrets credential credentials "
    "authorization cookie cookies bearer ssn cvv cvc apikey apikeys secretkey privatekey accesskey "
    "accountkey accesstoken refreshtoken idtoken authtoken clientsecret cardnumber"
)
# `token` and `key` alone say little: an LLM's tokens, the key of a cache. These words before them
# make the difference.
_BEFORE_TOKEN = _set(
    "access refresh id auth session api bearer csrf xsrf security oauth personal vault bot jwt "
    "secret deploy device webhook github gitlab slack hf huggingface npm pypi discord telegram "
    "service admin identity"
)
_BEFORE_KEY = _set(
    "api private secret access account signing encryption master shared subscription auth ssh "
    "service app deploy license hmac"
)
_BEFORE_PASS = _set("db database user smtp mysql postgres pg root admin ftp mail email redis proxy")
_PAIRS = frozenset(
    {("card", "number")}
    | {(word, token) for word in _BEFORE_TOKEN for token in ("token", "tokens")}
    | {(word, key) for word in _BEFORE_KEY for key in ("key", "keys")}
    | {(word, "pass") for word in _BEFORE_PASS}
)
# What may follow without changing what it is: `password_hash`, `private_key_pem`, `api_key_2`.
_AFTER = _set("value hash text plain encrypted base64 pem new old confirm confirmation")
# `has_password` and `max_secrets` tell about a secret, and hold none.
_ABOUT = _set("has is no num max min needs requires require show hide allow forgot")
# Marks in a text and places in a list, as opposed to what opens a door.
_PLAIN_TOKENS = _set(
    "next page cursor continuation sync start end bos eos pad unk mask sep cls first last max min "
    "per special stop image prev previous time output input"
)
# No English word ends like these, and people run words together: `pgpassword`, `myapikey`.
_ENDINGS = ("password", "passwd", "passphrase", "apikey", "secretkey", "authtoken", "accesstoken")
_NUMBERS = _set("password passwd passcode pwd ssn cvv cvc number cardnumber")


def words_of(name: str) -> list[str]:
    """Split a name into its words, lower case."""
    return [word.lower() for word in _WORD.findall(name)]


@lru_cache(maxsize=4096)  # names repeat; one made for every request is not kept
def judge(name: str) -> int:
    """Tell what `name` says of its value: NO, UNSURE or SECRET."""
    words = _bare(name)
    if not words or words[0] in _ABOUT:
        return NO
    last = words[-1]
    if last in _WHOLE or last.endswith(_ENDINGS) or tuple(words[-2:]) in _PAIRS:
        return SECRET
    if last == "token" and not (len(words) > 1 and words[-2] in _PLAIN_TOKENS):
        return UNSURE
    return NO


@lru_cache(maxsize=4096)
def takes_numbers(name: str) -> bool:
    """Tell whether a number under this secret name is the secret, and no count of some."""
    words = _bare(name)
    return bool(words) and (words[-1] in _NUMBERS or words[-1].endswith(_ENDINGS))


def _bare(name: str) -> list[str]:
    words = words_of(name)
    while len(words) > 1 and (words[-1] in _AFTER or words[-1].isdigit()):
        words.pop()
    return words
