"""What the routes work with, made once for a process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from redis.asyncio import Redis

from gateway.catalogue import Catalogue
from gateway.keyring import KeyRing
from gateway.notices import Waiters
from gateway.rates import Rates
from gateway.tenants import Tenants
from shared.settings import Settings
from shared.store import (
    DeliveryLog,
    DepthLimits,
    EndpointStore,
    JobStore,
    KeyStore,
    Notices,
    RateStore,
    Registry,
    TenantStore,
)

# Below what the gateway waits for Redis in all, so that the reason for a failure is Redis' own.
REDIS_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Services:
    """The stores on one connection pool, and what is kept of them in memory."""

    settings: Settings
    redis: Redis
    jobs: JobStore
    deliveries: DeliveryLog
    endpoints: EndpointStore
    registry: Registry
    catalogue: Catalogue
    waiters: Waiters
    keys: KeyRing
    tenants: Tenants
    rates: Rates


def make_services(settings: Settings, redis: Redis, notices_redis: Redis) -> Services:
    """`redis` answers requests, `notices_redis` is for one subscription."""
    replicas = settings.wait_replicas
    limits = DepthLimits(of_queue=settings.max_queue_depth, of_tenant=settings.max_tenant_depth)
    jobs = JobStore(redis, result_ttl_seconds=settings.result_ttl_seconds, wait_replicas=replicas, limits=limits)
    registry = Registry(redis)
    catalogue = Catalogue(registry)
    return Services(
        settings=settings,
        redis=redis,
        jobs=jobs,
        deliveries=DeliveryLog(redis, wait_replicas=replicas),
        endpoints=EndpointStore(redis, wait_replicas=replicas),
        registry=registry,
        catalogue=catalogue,
        keys=KeyRing(KeyStore(redis)),
        tenants=Tenants(TenantStore(redis, wait_replicas=replicas)),
        rates=Rates(RateStore(redis)),
        waiters=Waiters(jobs, Notices(notices_redis), catalogue.invalidate),
    )


async def _services(request: Request) -> Services:
    found: Services = request.app.state.services
    return found


CurrentServices = Annotated[Services, Depends(_services)]
"""A route's parameter: the services of this process."""
