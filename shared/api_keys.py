"""API keys: how they look, what is kept of them, and what they allow.

    mas_3k9v0c2mx7qa_Zr8…                  mas_<id, 12>_<secret, 32><checksum, 6>

Whoever finds one in a log or a repository knows it by its prefix, and by its checksum that it is one: as scanners do
with `mas_[0-9a-z]{12}_[0-9A-Za-z]{38}`. Of a key only its SHA-256 is kept: 190 random bits need no slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import orjson

Scope = Literal["jobs:read", "jobs:write", "ops"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "mas"
_ID_ALPHABET = string.digits + string.ascii_lowercase
_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH, _SECRET_LENGTH, _CHECKSUM_LENGTH = 12, 32, 6


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key. `expires_at_ms` is None where it never expires."""

    id: str
    tenant: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_at_ms: int
    expires_at_ms: int | None = None

    def allows(self, text: str, now_ms: int) -> bool:
        """Whether `text`, which names this key, is it, and has not expired."""
        same = hmac.compare_digest(digest_of(text), self.sha256)
        return same and (self.expires_at_ms is None or now_ms < self.expires_at_ms)

    def dump(self) -> bytes:
        """As JSON, for Redis."""
        return orjson.dumps(self)


def new_text() -> str:
    """A fresh key's text. Nothing is kept of it."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(_SECRET_LENGTH))
    body = f"{PREFIX}_{key_id}_{secret}"
    return body + _checksum(body)


def kept_of(
    text: str, tenant: str, name: str, scopes: Sequence[Scope], *, now_ms: int, expires_at_ms: int | None = None
) -> ApiKey:
    """What is kept of the key with this text. Raises `ValueError` where it is none."""
    key_id = id_of(text)
    if key_id is None:
        raise ValueError("it holds no API key: make one with `python -m gateway keys generate`")
    return ApiKey(key_id, tenant, name, tuple(scopes), digest_of(text), now_ms, expires_at_ms)


def new_key(
    tenant: str, name: str, scopes: Sequence[Scope], *, now_ms: int, expires_at_ms: int | None = None
) -> tuple[str, ApiKey]:
    """A fresh key, which is shown once, and what is kept of it."""
    text = new_text()
    return text, kept_of(text, tenant, name, scopes, now_ms=now_ms, expires_at_ms=expires_at_ms)


def id_of(text: str) -> str | None:
    """The id that a key names; None for what cannot be a key. Whether it is one, only `ApiKey.allows` says."""
    prefix, _, rest = text.partition("_")
    key_id, _, secret = rest.partition("_")
    if prefix != PREFIX or len(key_id) != _ID_LENGTH or len(secret) != _SECRET_LENGTH + _CHECKSUM_LENGTH:
        return None
    if not text.isascii() or _checksum(text[:-_CHECKSUM_LENGTH]) != text[-_CHECKSUM_LENGTH:]:
        return None
    return key_id


def read_key(content: bytes) -> ApiKey | None:
    """What `ApiKey.dump` wrote; None where it cannot be read: such a key lets nobody in."""
    try:
        fields: dict[str, Any] = orjson.loads(content)
        return ApiKey(**{**fields, "scopes": tuple(scope for scope in SCOPES if scope in fields["scopes"])})
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None


def digest_of(text: str) -> str:
    """What is kept of a key: the hexadecimal SHA-256 of its text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _checksum(body: str) -> str:
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits
