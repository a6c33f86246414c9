"""Connections to Redis, and running a script on them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import redis as redis_sync
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoScriptError, ResponseError

from shared.redis_url import is_sentinel_url, shown_address
from shared.settings import SettingsError
from shared.store.errors import NotReplicated, StoreError, StoreFull, StoreUnavailable, store_errors, translated
from shared.store.pool import OpenPool, SharedPool
from shared.store.scripts import Script
from shared.store.sentinel import BlockingMasterPool, MasterPool, master, master_sync

Argument = str | bytes | int | float
CONNECT_SECONDS = 1.5
GROUP_CALLS, GROUP_BYTES = 64, 1_000_000  # run by one call: Valkey is at it for 2 to 3 ms
WAIT_MS = 700  # for replicas: twice, where the server does not know the script, within what a request may take


def connect(url: str, *, connections: int = 32, answer_within: float = 2.0, tries: int = 1) -> Redis:
    """A client whose calls share at most `connections` connections and fail after `answer_within` seconds.

    With `tries=2` a call whose connection broke is sent once more: only for callers whose scripts bear a repetition.
    """
    options: dict[str, Any] = {
        "max_connections": connections,
        "timeout": answer_within,
        **_patience(url, answer_within),
        "retry": Retry(NoBackoff(), tries - 1),
        "retry_on_error": [ConnectionError] if tries > 1 else [],
    }
    if is_sentinel_url(url):
        return master(url, BlockingMasterPool, **options)
    return Redis.from_pool(SharedPool.from_url(url, **options))


def connect_blocking(url: str, *, answer_within: float | None = None) -> Redis:
    """A client for blocking reads and subscriptions: a connection of its own, no time limit unless one is given."""
    options: dict[str, Any] = {
        "max_connections": 4,
        **_patience(url, answer_within),
    }
    if is_sentinel_url(url):
        return master(url, MasterPool, **options)
    return Redis.from_pool(OpenPool.from_url(url, **options))


def wait_until_reachable(url: str, *, within: float = 15.0) -> None:
    """Return once the server answers. Raises `SettingsError`, never with a password, after `within` seconds."""
    deadline = time.monotonic() + within
    with connect_sync(url, answer_within=2.0) as redis:
        while True:
            try:
                with store_errors():
                    redis.ping()
                return
            except StoreError as error:
                shown = shown_address(url)
                if isinstance(error.__cause__, AuthenticationError):
                    raise SettingsError(f"REDIS_URL is wrong: {shown} refused the login: {error}") from None
                if time.monotonic() >= deadline:
                    reason = f"{shown} has not answered for {within:.0f} s: {error}"
                    raise SettingsError(f"REDIS_URL is wrong, or its server is down: {reason}") from None
                time.sleep(0.25)


def connect_sync(url: str, *, answer_within: float) -> redis_sync.Redis:
    """A synchronous client, for a thread of its own."""
    options: dict[str, Any] = {
        **_patience(url, answer_within),
    }
    return master_sync(url, **options) if is_sentinel_url(url) else redis_sync.Redis.from_url(url, **options)


def _patience(url: str, answer_within: float | None) -> dict[str, Any]:
    """How long to wait for a server, and to notice that one is gone; a Unix socket tells that by itself."""
    times = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": answer_within}
    return times if url.startswith("unix:") else {**times, "socket_keepalive": True}


async def run(redis: Redis, script: Script, *args: Argument, replicas: int = 0) -> Any:
    """Run a script; where it promises something, wait until this many replicas have it.

    Raises `StoreUnavailable` (`NotReplicated` among them), `StoreFull`, or redis-py's `ResponseError` for a bug in the
    script.
    """
    with store_errors():
        if replicas and script.promises:
            return await _with_replicas(redis, script, args, replicas)
        try:
            return await redis.evalsha(script.sha, 0, *args)  # type: ignore[arg-type, misc]
        except NoScriptError:
            return await redis.eval(script.text, 0, *args)  # type: ignore[arg-type, misc]


async def run_many(redis: Redis, script: Script, calls: list[list[Argument]], *, replicas: int = 0) -> list[Any]:
    """Run a script once for each list of arguments, in their order, each for itself. An error stands in its own place.

    As few round trips as Valkey bears: each is one call that runs the script many times. Raises `StoreUnavailable`
    where nothing was answered.
    """
    answers: list[Any] = []
    for group in _grouped(calls):
        try:
            if len(group) == 1:
                answers.append(await run(redis, script, *group[0], replicas=replicas))
            else:
                answers += map(_known, await run(redis, script, "each", *_counted(group), replicas=replicas))
        except (NotReplicated, StoreFull, ResponseError) as error:
            answers += [error] * len(group)
        except StoreUnavailable as error:
            if not answers:
                raise
            return answers + [error] * (len(calls) - len(answers))  # what is answered is done
    return answers


def _grouped(calls: list[list[Argument]]) -> Iterator[list[list[Argument]]]:
    """The calls that one call of the script runs: Valkey does nothing else meanwhile."""
    group, size = list[list[Argument]](), 0
    for call in calls:
        more = sum([len(argument) for argument in call if isinstance(argument, (bytes, str))])
        if group and (size + more > GROUP_BYTES or len(group) == GROUP_CALLS):
            yield group
            group, size = [], 0
        group.append(call)
        size += more
    if group:
        yield group


def _counted(group: list[list[Argument]]) -> Iterator[Argument]:
    """As scripts/calls.lua takes them: before the arguments of each call, how many they are."""
    for call in group:
        yield len(call)
        yield from call


def _known(answer: Any) -> Any:
    return translated(answer) if isinstance(answer, Exception) else answer


async def _with_replicas(redis: Redis, script: Script, args: tuple[Argument, ...], replicas: int) -> Any:
    """The answer, where enough replicas have it: asked in the same round trip."""
    for with_text in (False, True):
        pipeline = redis.pipeline(transaction=False)
        pipeline.eval(script.text, 0, *args) if with_text else pipeline.evalsha(script.sha, 0, *args)  # type: ignore[arg-type]
        pipeline.execute_command("WAIT", replicas, WAIT_MS)
        answer, has = await pipeline.execute(raise_on_error=False)
        if not isinstance(answer, NoScriptError):
            break
    return _replicated(answer, has, replicas)


def _replicated(answer: Any, has: Any, replicas: int) -> Any:
    """The answer, where enough replicas have it. Raises what it, or the question for replicas, failed with."""
    for one in (answer, has):
        if isinstance(one, Exception):
            raise one
    if has < replicas:
        raise NotReplicated(f"{has} of {replicas} replicas have it after {WAIT_MS} ms")
    return answer


def run_sync(redis: redis_sync.Redis, script: Script, *args: Argument, replicas: int = 0) -> Any:
    """`run` for a synchronous client."""
    with store_errors():
        try:
            answer = redis.evalsha(script.sha, 0, *args)  # type: ignore[arg-type]
        except NoScriptError:
            answer = redis.eval(script.text, 0, *args)  # type: ignore[arg-type]
        if replicas and script.promises:
            return _replicated(answer, redis.wait(replicas, WAIT_MS), replicas)
        return answer
