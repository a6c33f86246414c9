"""The HTTP surface, one file a resource. Routes read a request, call the store once, and write the answer."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute

from gateway.routes import (
    addresses,
    deliveries,
    docs,
    graphs,
    health,
    jobs,
    metrics,
    redeliver,
    rerun,
    submit,
    tenants,
    webhooks,
    workers,
)

DIRECT = [
    route
    for route in (*submit.router.routes, *jobs.waiting_router.routes)
    if isinstance(route, APIRoute) and route.endpoint in (submit.submit, jobs.get_job)
]
"""The routes of one job, which carry the load (see `gateway/direct.py`)."""


def install_routes(app: FastAPI) -> None:
    """Put all routes into the application, as one flat list: `include_router` would match each request twice."""
    # Earlier ones go first: `/webhooks/addresses` is no endpoint, `/deliveries/redeliver` no delivery.
    for module in (
        submit, jobs, rerun, addresses, webhooks, redeliver, deliveries, graphs, workers, tenants, health, metrics, docs
    ):  # fmt: skip
        app.router.routes.extend(module.router.routes)
    app.router.routes.extend(jobs.waiting_router.routes)
