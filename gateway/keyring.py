"""A copy of all API keys in each process, so that a request asks Redis for none.

It is looked at twice a second whether they have changed: a revoked key works for half a second more, on no process for
longer than one. While Redis is away no route that matters answers, so an old copy opens nothing.
"""

from __future__ import annotations

import time

import structlog

from gateway.copies import KeptCopy
from shared.api_keys import ApiKey, id_of
from shared.store import KeyStore

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
NO_KEYS = (
    "no API key exists, so that nobody is let in: make one with "
    "`python -m gateway keys create --tenant default --name first --scopes jobs:read,jobs:write,ops`"
)


class KeyRing(KeptCopy):
    """The keys as they were half a second ago at most."""

    def __init__(self, store: KeyStore) -> None:
        self.store = store
        self._keys: dict[str, ApiKey] = {}

    def find(self, text: str) -> ApiKey | None:
        """The key that this is; None for what is none, was revoked or has expired."""
        found = self._keys.get(id_of(text) or "")
        return found if found is not None and found.allows(text, int(time.time() * 1000)) else None

    async def changes(self) -> bytes | None:
        return await self.store.changes()

    async def read(self) -> bytes | None:
        changes, keys = await self.store.all()
        if not keys and (self._keys or not self.loaded):
            logger.warning(NO_KEYS)
        self._keys = {one.id: one for one in keys}
        return changes
