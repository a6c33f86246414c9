"""What stands in a Redis that nobody changes: how much of each kind, and where its threads stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from redis import Redis

from shared.store.errors import store_errors
from shared.store.keys import KEYS, digest, key

PAGE = 1000


def count_all(redis: Redis) -> dict[str, int]:
    """How many jobs and deliveries there are by status, how many wait, threads, API keys, endpoints: `{name: count}`.

    A job counts in `jobs <status>`; `waiting` are those that a queue's depth counts. Raises `StoreError`s.
    """
    counts: Counter[str] = Counter()
    with store_errors():
        for name, short in (("jobs", "index"), ("deliveries", "deliveries_index")):
            for index in _names(redis, short):
                counts[f"{name} {index.rpartition(':')[2]}"] += int(redis.zcard(index))  # type: ignore[arg-type]
        for waiting in _names(redis, "waiting"):
            counts["waiting"] += int(redis.scard(waiting))  # type: ignore[arg-type]
        for endpoints in _names(redis, "endpoints"):
            counts["endpoints"] += int(redis.hlen(endpoints))  # type: ignore[arg-type]
        counts["threads"] = sum(1 for _ in _names(redis, "head"))
        counts["delayed"] = int(redis.zcard(key("due")))  # type: ignore[arg-type]
        counts["running"] = int(redis.zcard(key("leases")))  # type: ignore[arg-type]
        known = redis.hlen(key("api_keys")) - bool(redis.hexists(key("api_keys"), "changes"))  # type: ignore[operator]
        counts["api keys"] = int(known)
    return {name: counts[name] for name in sorted(counts) if counts[name]}


def thread_heads(redis: Redis) -> Iterator[tuple[str, dict[str, str]]]:
    """For each thread that was ever pinned its name (see `thread_name`), and its checkpoint by namespace."""
    with store_errors():
        for head in _names(redis, "head"):
            fields: dict[bytes, bytes] = redis.hgetall(head)  # type: ignore[assignment]
            stands = {
                name[2:].decode(): checkpoint.decode() for name, checkpoint in fields.items() if name.startswith(b"h:")
            }
            yield head.removeprefix(KEYS["head"]), stands


def pinned(redis: Redis, threads: list[str]) -> list[bool]:
    """Whether each of these threads, as the threads' database names them, was ever pinned: one round trip."""
    with store_errors():
        pipeline = redis.pipeline(transaction=False)
        for thread in threads:
            pipeline.exists(KEYS["head"] + thread_name(thread))
        return [bool(answer) for answer in pipeline.execute()]


def live_workers(redis: Redis) -> int:
    """How many workers have said within the last seconds that they live."""
    with store_errors():
        return sum(1 for _ in _names(redis, "worker"))


def thread_name(database_name: str) -> str:
    """How `thread_heads` names the thread that the threads' database knows as `<tenant>:<thread id>`."""
    tenant, _, thread_id = database_name.partition(":")
    return f"{tenant}:{digest(thread_id)}"


def _names(redis: Redis, short: str) -> Iterator[str]:
    """The keys of one kind, each once where nothing changes."""
    for name in redis.scan_iter(match=KEYS[short] + "*", count=PAGE):
        yield name.decode()
