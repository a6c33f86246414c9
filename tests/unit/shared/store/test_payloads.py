"""Payloads are bytes to Redis: any JSON comes back as it went in."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.job_queue import TENANT, JobQueue

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text()
DOCUMENTS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=DOCUMENTS, returned=DOCUMENTS, ascii_only=st.booleans())
async def test_any_json_comes_back_byte_for_byte(
    queue: JobQueue, sent: object, returned: object, ascii_only: bool
) -> None:
    payload = json.dumps(sent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    output = json.dumps(returned, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    await queue.redis.flushall()
    await queue.submit("a", payload=payload, fields={"metadata": payload})
    job = await queue.take()
    assert (job.payload, job.record[b"metadata"]) == (payload, payload)
    await queue.finish("w1", job, output=output, fields={"interrupts": output}, events=[output])
    stored = await queue.store.get(TENANT, "a")
    assert stored is not None
    assert (stored.output, stored.record[b"interrupts"]) == (output, output)


async def test_bytes_that_mean_something_to_lua_or_redis_come_back(queue: JobQueue) -> None:
    payload = bytes(range(256)) + b"\r\n*3\r\n$-1\r\n%s%d\\0]]--nil" + b"\x00" * 10_000
    await queue.submit("a", payload=payload)
    job = await queue.take()
    assert job.payload == payload
    await queue.finish("w1", job, output=payload)
    stored = await queue.store.get(TENANT, "a")
    assert stored is not None
    assert stored.output == payload
