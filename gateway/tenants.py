"""A copy of what operators have set for single tenants in each process, so that a request asks Redis for none of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from gateway.keyring import LOOK_SECONDS, RELOAD_SECONDS
from shared.store import StoreError, TenantLimits, TenantStore

logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
NOTHING_SET = TenantLimits()


class Tenants:
    """The limits as they were half a second ago at most, or when Redis was last there."""

    def __init__(self, store: TenantStore) -> None:
        self.store = store
        self._limits: dict[str, TenantLimits] = {}
        self._changes: bytes | None = None
        self._loaded_at = float("-inf")

    def limits(self, tenant: str) -> TenantLimits:
        """What is set for this tenant."""
        return self._limits.get(tenant, NOTHING_SET)

    async def load(self) -> None:
        """Take over what is set now. Raises `StoreError`s."""
        self._changes, self._limits = await self.store.all()
        self._loaded_at = time.monotonic()

    @asynccontextmanager
    async def kept_up(self) -> AsyncIterator[None]:
        """Follow the changes for as long as the block lasts."""
        await self._look()
        task = asyncio.create_task(self._follow())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self._look()

    async def _look(self) -> None:
        try:
            if time.monotonic() - self._loaded_at > RELOAD_SECONDS or await self.store.changes() != self._changes:
                await self.load()
        except StoreError:
            pass  # its absence is told elsewhere
        except Exception:
            logger.exception("cannot look at the tenants' limits")
