"""From a client's request to the job that goes into the queue: the checks that need more than the request itself."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import uuid_utils
from pydantic import BaseModel

from gateway.catalogue import Catalogue, Graph
from gateway.errors import Problem, invalid_field
from gateway.idempotency import KeyedRequest
from gateway.receivers import check_receiver, sealed
from shared.jobs import YEAR_SECONDS, JobRequest, WebhookRequest
from shared.settings import Settings
from shared.store import NewJob

# W3C Trace Context, version 00; ids of zeros only are invalid.
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class Submission:
    """Turns the requests of one caller into jobs."""

    def __init__(self, settings: Settings, catalogue: Catalogue, tenant: str, traceparent: str | None) -> None:
        self.settings = settings
        self.catalogue = catalogue
        self.tenant = tenant
        self.traceparent = traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None
        self._refused: dict[str, Problem] = {}

    async def job(self, request: JobRequest, keyed: KeyedRequest, place: int = 0) -> NewJob:
        """The job to put into the queue. Raises `Problem`, or `StoreUnavailable` where the catalogue has to be read.

        `keyed` is the whole request that it came with, `place` its place in it.
        """
        graph = await self._graph(request.graph)
        graph.check("input", request.input)
        if request.context is not None:
            graph.check("context", request.context)
        _check_run_at(request.run_at)
        return NewJob(
            tenant=self.tenant,
            id=uuid_utils.uuid7().hex,
            graph=request.graph,
            payload=_payload(request),
            max_attempts=request.max_attempts or self.settings.max_attempts,
            queue=request.queue,
            priority=request.priority,
            delay_ms=None if request.delay_seconds is None else int(request.delay_seconds * 1000),
            run_at_ms=None if request.run_at is None else int(request.run_at.timestamp() * 1000),
            thread_id=request.thread_id,
            on_busy=request.on_busy,
            idempotency_key=keyed.key,
            place=place,
            fingerprint=keyed.fingerprint,
            fields=self._record_fields(request),
        )

    async def _graph(self, graph_id: str) -> Graph:
        """The graph; one that is not there is looked for once, not for each job of a batch."""
        if graph_id in self._refused:
            raise self._refused[graph_id]
        try:
            return await self.catalogue.to_run(graph_id)
        except Problem as problem:
            self._refused[graph_id] = problem
            raise

    def _record_fields(self, request: JobRequest) -> dict[str, str | bytes]:
        fields: dict[str, str | bytes] = {}
        if request.metadata is not None:
            fields["metadata"] = orjson.dumps(request.metadata)
        if request.webhook is not None:
            fields |= self._webhook_fields(request.webhook)
        if self.traceparent is not None:
            fields["traceparent"] = self.traceparent
        return fields

    def _webhook_fields(self, webhook: WebhookRequest) -> dict[str, str | bytes]:
        check_receiver(self.settings, webhook.url, "webhook", "url")
        fields: dict[str, str | bytes] = {"webhook_url": webhook.url}
        if webhook.events is not None:
            fields["webhook_events"] = ",".join(webhook.events)
        if webhook.secret is not None:
            fields["webhook_secret"] = sealed(self.settings, webhook.secret, "webhook", "secret")
        return fields


def _payload(request: JobRequest) -> bytes:
    """What the worker needs: `{input, config, context, stream, limits}`, without what was not given."""
    payload: dict[str, Any] = {"input": request.input}
    if request.config is not None:
        payload["config"] = _given(request.config)
    if request.context is not None:
        payload["context"] = request.context
    if request.stream is not None:
        payload["stream"] = request.stream
    if request.limits is not None:
        payload["limits"] = _given(request.limits)
    return orjson.dumps(payload)


def _given(part: BaseModel) -> dict[str, Any]:
    return {name: value for name, value in part if value is not None}


def _check_run_at(run_at: datetime | None) -> None:
    if run_at is not None and run_at > datetime.now(UTC) + timedelta(seconds=YEAR_SECONDS):
        raise invalid_field("run_at", says="must be at most a year from now")
