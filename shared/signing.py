"""Webhook secrets and signatures, as Standard Webhooks 1.0 has them (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from secrets import token_bytes
from typing import TYPE_CHECKING

from standardwebhooks import Webhook

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

SECRET_PREFIX = "whsec_"  # noqa: S105 - how every secret begins, not one of them
MIN_SECRET_BYTES, NEW_SECRET_BYTES, MAX_SECRET_BYTES = 24, 32, 64


def default_secret(secret_key: str, tenant: str) -> str:
    """The secret (`whsec_…`) that signs a tenant's webhooks where a job brings none. The same in every process."""
    digest = hmac.new(secret_key.encode(), b"webhook:" + tenant.encode(), hashlib.sha256).digest()
    return SECRET_PREFIX + base64.b64encode(digest).decode()


def new_secret() -> str:
    """A fresh secret, for whoever brings none."""
    return SECRET_PREFIX + base64.b64encode(token_bytes(NEW_SECRET_BYTES)).decode()


def check_secret(secret: str) -> None:
    """Raise `ValueError`, with a sentence that does not repeat the secret, unless receivers' libraries will take it."""
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret begins with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"a webhook secret is {SECRET_PREFIX} and standard base64 with its padding") from None
    if not MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        raise ValueError(f"a webhook secret holds {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} bytes, this one {len(key)}")


def sign_headers(secrets: Sequence[str], message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three `webhook-…` headers of one try: one signature for each secret, so that a secret can be rotated.

    `at` is aware; `body` is UTF-8, exactly as it goes over the wire. Raises `UnicodeDecodeError` where it is not.
    """
    text = body.decode()
    at = at.astimezone(UTC)  # Webhook.sign takes any clock reading for UTC
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, at, text) for secret in secrets),
    }


def seal(secret_key: str, text: str) -> str:
    """Encrypt a secret for keeping in Redis; only a process with the same SECRET_KEY can `unseal` it."""
    return _cipher(secret_key).encrypt(text.encode()).decode()


def unseal(secret_key: str, token: str) -> str:
    """What `seal` was given. Raises `ValueError` where the token was sealed with another SECRET_KEY, or altered."""
    from cryptography.fernet import InvalidToken

    try:
        return _cipher(secret_key).decrypt(token.encode()).decode()
    except InvalidToken:
        raise ValueError("the secret cannot be read: it was stored under another SECRET_KEY") from None


@lru_cache(maxsize=4)  # each try of a delivery unseals, and half of that was deriving the key
def _cipher(secret_key: str) -> Fernet:
    # Imported here, for most gateways and workers never meet a secret of a job's own.
    from cryptography.fernet import Fernet
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"webhook secrets 1").derive(secret_key.encode())
    return Fernet(base64.urlsafe_b64encode(key))
