"""What a client may say of a receiver, its URL and its secret: checked alike for jobs and for endpoints."""

from __future__ import annotations

from gateway.errors import Problem, invalid_field, json_pointer
from shared.addresses import AddressRefused, check_url
from shared.settings import Settings
from shared.signing import check_secret, seal


def check_receiver(settings: Settings, url: str, *path: str) -> None:
    """Raise `Problem` (`webhook_refused`) where no webhook could go. `path` leads to the URL in the body."""
    try:
        check_url(url, settings.webhook_allow_networks)
    except AddressRefused as error:
        found = {"pointer": json_pointer(path), "detail": str(error)}
        raise Problem("webhook_refused", f"No webhook can go there: {error}.", errors=[found]) from None


def sealed(settings: Settings, secret: str, *path: str) -> str:
    """A secret as it is stored. Raises `Problem` where receivers could not use it; `path` leads to it in the body."""
    try:
        check_secret(secret)
    except ValueError as error:
        raise invalid_field(*path, says=str(error)) from None
    return seal(settings.require_secret_key(), secret)
