"""`python -m gateway keys`: make API keys, list them, revoke them."""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from shared.api_keys import SCOPES, Scope, kept_of, new_key, new_text
from shared.jobs import rfc3339
from shared.settings import Settings, SettingsError
from shared.store import KeyStore, StoreError, connect
from shared.store.keys import TENANT_PATTERN

DAY_MS = 24 * 3600 * 1000
MAX_NAME = 100
Answer = TypeVar("Answer")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add `create`, `generate`, `list` and `revoke`."""
    commands = parser.add_subparsers(dest="action", metavar="action", required=True)
    create = commands.add_parser("create", help="make a key; it is printed once, on the last line")
    create.add_argument("--tenant", required=True, type=_tenant, help="whose jobs the key is for")
    create.add_argument("--name", required=True, type=_name, help="who or what uses it")
    create.add_argument(
        "--scopes", default="jobs:read,jobs:write", type=_scopes, help=f"of {', '.join(SCOPES)}; default: %(default)s"
    )
    create.add_argument("--expires-days", type=_days, metavar="DAYS", help="default: it does not expire")
    create.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="make the key that this file holds valid (from keys generate), and print its id only; repeatable",
    )
    commands.add_parser("generate", help="print a fresh key that is not valid yet: create --key-file makes it so")
    commands.add_parser("list", help="show all keys, without their secrets")
    revoke = commands.add_parser("revoke", help="end a key, on every gateway within a second")
    revoke.add_argument("id", help="the key's id, from the list")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Do what was asked. Gives the exit status. Raises `SettingsError` where Redis cannot be reached."""
    if options.action == "create":
        return _create(options, settings)
    if options.action == "revoke":
        return _revoke(options.id, settings)
    if options.action == "generate":
        print(new_text())
        return 0
    return _list(settings)


def _create(options: argparse.Namespace, settings: Settings) -> int:
    now = int(time.time() * 1000)
    expires = None if options.expires_days is None else now + int(options.expires_days * DAY_MS)
    if options.key_file is not None:
        return _create_from(options.key_file, options, settings, now, expires)
    text, kept = new_key(options.tenant, options.name, options.scopes, now_ms=now, expires_at_ms=expires)
    _ask(settings, lambda store: store.save(kept))
    print(f"Key {kept.id} of tenant {kept.tenant}, {_until(expires, now)}. It is shown this once:", file=sys.stderr)
    print(text)
    return 0


def _create_from(file: Path, options: argparse.Namespace, settings: Settings, now: int, expires: int | None) -> int:
    try:
        text = file.read_text().strip()
        kept = kept_of(text, options.tenant, options.name, options.scopes, now_ms=now, expires_at_ms=expires)
    except OSError as error:
        raise SettingsError(f"--key-file is wrong: cannot read {file}: {error.strerror}") from None
    except ValueError as error:  # bytes that are no text, too: the message must not quote them
        reason = "it is not text" if isinstance(error, UnicodeError) else str(error)
        raise SettingsError(f"--key-file is wrong: {file}: {reason}") from None

    async def save_new(store: KeyStore) -> bool:
        _, there = await store.all()
        same_id = next((one for one in there if one.id == kept.id), None)
        if same_id is not None:
            return same_id.sha256 == kept.sha256
        await store.save(kept)
        return True

    if not _ask(settings, save_new):
        print(f"There is another key with the id {kept.id}: generate a new one.", file=sys.stderr)
        return 1
    print(f"Key {kept.id} of tenant {kept.tenant} is valid.", file=sys.stderr)
    return 0


def _list(settings: Settings) -> int:
    now = int(time.time() * 1000)
    _, keys = _ask(settings, lambda store: store.all())
    rows = [("ID", "TENANT", "NAME", "SCOPES", "CREATED", "STATE")]
    rows += [
        (one.id, one.tenant, one.name, ",".join(one.scopes), rfc3339(one.created_at_ms), _until(one.expires_at_ms, now))
        for one in keys
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _revoke(key_id: str, settings: Settings) -> int:
    if not _ask(settings, lambda store: store.revoke(key_id)):
        print(f"There is no key {key_id!r}: `python -m gateway keys list` shows those there are.", file=sys.stderr)
        return 1
    print(f"Key {key_id} is revoked.")
    return 0


def _ask(settings: Settings, question: Callable[[KeyStore], Awaitable[Answer]]) -> Answer:
    async def ask() -> Answer:
        async with connect(settings.require_redis_url()) as redis:
            return await question(KeyStore(redis, wait_replicas=settings.wait_replicas))

    try:
        return asyncio.run(ask())
    except StoreError as error:
        raise SettingsError(f"REDIS_URL is wrong, or its server is down: {error}") from None


def _until(expires_at_ms: int | None, now_ms: int) -> str:
    if expires_at_ms is None:
        return "does not expire"
    return f"{'expired' if expires_at_ms <= now_ms else 'expires'} {rfc3339(expires_at_ms)}"


def _tenant(text: str) -> str:
    if not re.fullmatch(TENANT_PATTERN, text):
        raise argparse.ArgumentTypeError("a tenant has 1 to 64 lower-case letters, digits, - and _")
    return text


def _name(text: str) -> str:
    if not (text.isprintable() and len(text.strip()) > 0 and len(text) <= MAX_NAME):
        raise argparse.ArgumentTypeError(f"a name has 1 to {MAX_NAME} printable characters")
    return text


def _scopes(text: str) -> tuple[Scope, ...]:
    named = {scope.strip() for scope in text.split(",")}
    if not named or not named <= set(SCOPES):
        raise argparse.ArgumentTypeError(f"scopes are of {', '.join(SCOPES)}, separated by commas")
    return tuple(scope for scope in SCOPES if scope in named)


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = 0
    if not 0 < days <= 36_500:
        raise argparse.ArgumentTypeError("days are a number greater than 0")
    return days
