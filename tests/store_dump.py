"""All that stands in Redis, read in two round trips and sorted by the short names of `shared.store.keys`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from redis import Redis

from shared.store.keys import KEYS
from tests.fakes import values_in_memory

Record = dict[str, str]
_SHORT = {prefix: short for short, prefix in KEYS.items()}
_HASHES = {
    "job", "thread", "checkpoints", "head", "head_before",
    "delivery", "delivery_record", "host", "endpoint", "address",
}  # fmt: skip
_ZSETS = {
    "lane", "solo", "line", "due", "leases", "expiry", "index", "index_thread",
    "deliveries_index", "deliveries_leases", "deliveries_expiry", "hosts", "host_line", "addresses_expiry", "disabled",
}  # fmt: skip
_SETS = {"lanes", "held", "queues", "graphs", "waiting", "targets", "host_sending", "held_back"}
_STRINGS = {"running", "result", "input", "resume", "claims", "delivery_output"}
_LISTS = {"deliveries"}
_LENGTHS = {"events", "delivery_attempts", "wake"}


@dataclass(frozen=True)
class Dump:
    """What stands in Redis: by short name, then by the rest of the key. What expires by itself is left out."""

    hashes: dict[str, dict[str, Record]] = field(default_factory=lambda: {short: {} for short in _HASHES})
    zsets: dict[str, dict[str, dict[str, float]]] = field(default_factory=lambda: {short: {} for short in _ZSETS})
    sets: dict[str, dict[str, set[str]]] = field(default_factory=lambda: {short: {} for short in _SETS})
    strings: dict[str, dict[str, str]] = field(default_factory=lambda: {short: {} for short in _STRINGS})
    lists: dict[str, dict[str, list[str]]] = field(default_factory=lambda: {short: {} for short in _LISTS})
    lengths: dict[str, dict[str, int]] = field(default_factory=lambda: {short: {} for short in _LENGTHS})

    @property
    def jobs(self) -> dict[str, Record]:
        return self.hashes["job"]

    @property
    def due(self) -> dict[str, float]:
        """The due times of the jobs that are not due yet, in ms."""
        return self.zsets["due"].get("", {})

    @property
    def leases(self) -> dict[str, float]:
        """The ends of the leases of running jobs, in ms."""
        return self.zsets["leases"].get("", {})


def read_all(redis: Redis) -> Dump:
    """Read what belongs to jobs and their deliveries."""
    dump = Dump()
    for name, value in (values_in_memory(redis) or _values(redis)).items():
        short, rest = _split(name)
        if short in _HASHES:
            dump.hashes[short][rest] = {
                n.decode(errors="replace"): v.decode(errors="replace") for n, v in value.items()
            }
        elif short in _ZSETS and not rest.endswith(":for"):
            dump.zsets[short][rest] = {_text(member): score for member, score in value}
        elif short in _SETS:
            dump.sets[short][rest] = {_text(member) for member in value}
        elif short in _STRINGS:
            dump.strings[short][rest] = _text(value)
        elif short in _LISTS:
            dump.lists[short][rest] = [_text(member) for member in value]
        elif short in _LENGTHS:
            dump.lengths[short][rest] = len(value)
    return dump


def _values(redis: Redis) -> dict[str, Any]:
    """The raw values of the keys that are read."""
    names = []
    pipeline = redis.pipeline(transaction=False)
    for name in sorted(name.decode() for name in redis.keys("*")):
        short, rest = _split(name)
        if short in _HASHES:
            pipeline.hgetall(name)
        elif short in _ZSETS and not rest.endswith(":for"):
            pipeline.zrange(name, 0, -1, withscores=True)
        elif short in _SETS:
            pipeline.smembers(name)
        elif short in _STRINGS:
            pipeline.get(name)
        elif short in _LISTS | _LENGTHS:
            pipeline.lrange(name, 0, -1)
        else:
            continue
        names.append(name)
    return dict(zip(names, pipeline.execute(), strict=True))


@lru_cache(maxsize=4096)
def _split(name: str) -> tuple[str, str]:
    """The short name of a key, and the rest of it; an unknown key has none."""
    if name in _SHORT:
        return _SHORT[name], ""
    kind, colon, rest = name.partition(":")
    second, colon, rest = rest.partition(":")
    return _SHORT.get(f"{kind}:{second}{colon}", ""), rest


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
