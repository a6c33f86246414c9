"""A copy of all API keys in each process, so that a request asks Redis for none.

It is looked at twice a second whether they have changed: a revoked key works for half a second more, on no process for
longer than one. While Redis is away no route that matters answers, so an old copy opens nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from shared.api_keys import ApiKey, id_of
from shared.store import KeyStore, StoreError

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
LOOK_SECONDS = 0.5
RELOAD_SECONDS = 30.0  # without a change: after a fail-over the count of changes may say nothing
NO_KEYS = (
    "no API key exists, so that nobody is let in: make one with "
    "`python -m gateway keys create --tenant default --name first --scopes jobs:read,jobs:write,ops`"
)


class KeyRing:
    """The keys as they were half a second ago at most."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self.loaded = False
        self._keys: dict[str, ApiKey] = {}
        self._changes: bytes | None = None
        self._loaded_at = 0.0

    def find(self, text: str) -> ApiKey | None:
        """The key that this is; None for what is none, was revoked or has expired."""
        found = self._keys.get(id_of(text) or "")
        return found if found is not None and found.allows(text, int(time.time() * 1000)) else None

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Follow the changes for as long as the block lasts; the keys are there from the start, where Redis is."""
        try:
            await self._load()
        except StoreError as error:
            logger.warning("no API keys are known until Redis is back", error=str(error))
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                late = time.monotonic() - self._loaded_at > RELOAD_SECONDS
                if late or not self.loaded or await self.store.changes() != self._changes:
                    await self._load()
            except StoreError:
                pass  # its absence is told elsewhere
            except Exception:
                logger.exception("cannot look at the API keys")

    async def _load(self) -> None:
        changes, keys = await self.store.all()
        if not keys and (self._keys or not self.loaded):
            logger.warning(NO_KEYS)
        self._keys = {one.id: one for one in keys}
        self._changes, self._loaded_at, self.loaded = changes, time.monotonic(), True
