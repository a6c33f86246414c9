"""What must hold in Redis after each transition, whatever the transitions were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from redis import Redis

from shared.store.keys import KEYS, digest, key

ENDED = {"succeeded", "failed", "cancelled"}
Record = dict[str, str]


@dataclass(frozen=True)
class Dump:
    """What stands in Redis, by the short names of `shared.store.keys`, without their prefixes."""

    hashes: dict[str, dict[str, Record]]
    zsets: dict[str, dict[str, dict[str, float]]]
    sets: dict[str, dict[str, set[str]]]
    strings: dict[str, dict[str, str]]

    @property
    def jobs(self) -> dict[str, Record]:
        return self.hashes["job"]

    @property
    def due(self) -> dict[str, float]:
        """The due times of the jobs that are not due yet."""
        return self.zsets["due"].get("", {})


def read_all(redis: Redis) -> Dump:
    """Read what belongs to jobs."""
    names = sorted(name.decode() for name in redis.keys("*"))

    def each(short: str) -> Iterator[tuple[str, str]]:
        return ((name, name.removeprefix(KEYS[short])) for name in names if name.startswith(KEYS[short]))

    return Dump(
        hashes={
            short: {
                rest: {n.decode(): v.decode() for n, v in redis.hgetall(name).items()} for name, rest in each(short)
            }
            for short in ("job", "thread")
        },
        zsets={
            short: {
                rest: {member.decode(): score for member, score in redis.zrange(name, 0, -1, withscores=True)}
                for name, rest in each(short)
                if not rest.endswith(":for")
            }
            for short in ("lane", "solo", "line", "due", "leases", "expiry", "index", "index_thread")
        },
        sets={
            short: {rest: {member.decode() for member in redis.smembers(name)} for name, rest in each(short)}
            for short in ("lanes", "held")
        },
        strings={
            short: {rest: (redis.get(name) or b"").decode(errors="replace") for name, rest in each(short)}
            for short in ("running", "result")
        },
    )


def audit(redis: Redis) -> list[str]:
    """A sentence for each thing that is wrong; none where all jobs are where they should be."""
    return faults(read_all(redis))


def faults(dump: Dump) -> list[str]:
    """`audit` of what was read before."""
    checks = (_wrong_places, _wrong_leases, _wrong_ends, _wrong_indexes, _wrong_threads)
    return [fault for check in checks for fault in check(dump)]


def _wrong_places(dump: Dump) -> Iterator[str]:
    """Each queued job waits in exactly one place, a running one is leased, and nothing else is anywhere."""
    places: dict[str, list[str]] = defaultdict(list)
    for short in ("lane", "solo", "line", "due", "leases"):
        for rest, members in dump.zsets[short].items():
            for ref in members:
                places[ref].append(KEYS[short] + rest)
    for ref in {*dump.jobs, *places}:
        right = _right_places(ref, dump.jobs[ref]) if ref in dump.jobs else []
        if not (places[ref] == right == [] or (len(places[ref]) == 1 and places[ref][0] in right)):
            yield f"{ref} is in {places[ref]}: {dump.jobs.get(ref)}"
    named = {f"{queue}:{lane}" for queue, lanes in dump.sets["lanes"].items() for lane in lanes}
    if named != set(dump.zsets["lane"]):
        yield f"the lanes are {set(dump.zsets['lane'])}, but {named} are named"


def _right_places(ref: str, job: Record) -> list[str]:
    tenant = ref.partition(":")[0]
    if job["status"] == "running":
        return [key("leases")]
    if job["status"] != "queued":
        return []
    lane, solo = key("lane", job["queue"], job["graph"], tenant), key("solo", job["queue"], job["graph"])
    last_after_loss = int(job.get("lost", 0)) > 0 and int(job["tries"]) + 1 >= int(job["max_attempts"])
    line = [key("line", tenant, job["thread"])] if "thread" in job else []
    return [solo if last_after_loss else lane, key("due"), *line]


def _wrong_leases(dump: Dump) -> Iterator[str]:
    """The running jobs are those with a fence, and those that their worker holds; no others have a cancel mark."""
    fences = {ref: f"{job['worker']} {job['attempt']}" for ref, job in dump.jobs.items() if job["status"] == "running"}
    held = {ref: worker for worker, refs in dump.sets["held"].items() for ref in refs}
    if dump.strings["running"] != fences:
        yield f"fences are {dump.strings['running']}, running are {fences}"
    if held != {ref: fence.rpartition(" ")[0] for ref, fence in fences.items()}:
        yield f"held are {held}, running are {fences}"
    for ref, job in dump.jobs.items():
        if "cancel" in job and job["status"] != "running":
            yield f"{ref} is marked to be cancelled, but is {job['status']}"


def _wrong_ends(dump: Dump) -> Iterator[str]:
    """Exactly the ended jobs have a result and a retention."""
    ended = {ref for ref, job in dump.jobs.items() if job["status"] in ENDED}
    expiring = set(dump.zsets["expiry"].get("", {}))
    if set(dump.strings["result"]) != ended:
        yield f"results are of {set(dump.strings['result'])}, ended are {ended}"
    if expiring != ended:
        yield f"retention is set for {expiring}, ended are {ended}"
    for ref, job in dump.jobs.items():
        if (job["status"] in ENDED | {"interrupted"}) != ("finished_at" in job):
            yield f"{ref} is {job['status']} with finished_at {job.get('finished_at')}"


def _wrong_indexes(dump: Dump) -> Iterator[str]:
    """Each job has one entry, of its own status and creation time, and one in its thread's index."""
    unknown = {  # the record was lost, and the thread with it
        ref for ref, job in dump.jobs.items() if "unreadable_record" in job.get("error", "") and "thread" not in job
    }
    for short, wanted in (
        ("index", {(ref, f"{job['graph']}:{job['status']}", job["created_at"]) for ref, job in dump.jobs.items()}),
        ("index_thread", {(r, job["thread"], job["created_at"]) for r, job in dump.jobs.items() if "thread" in job}),
    ):
        found = []
        for name, members in dump.zsets[short].items():
            tenant, _, rest = name.partition(":")
            found += [(f"{tenant}:{job_id}", rest, f"{created:.0f}") for job_id, created in members.items()]
        found = [entry for entry in found if short == "index" or entry[0] not in unknown]
        if sorted(found) != sorted(wanted):
            yield f"{short} has {sorted(found)}, the records say {sorted(wanted)}"


def _wrong_threads(dump: Dump) -> Iterator[str]:
    """A busy thread belongs to a job that has not ended, and a job past the line is the one its thread belongs to."""
    holders = {thread: fields.get("holder", "") for thread, fields in dump.hashes["thread"].items()}
    lines = dump.zsets["line"]
    for thread, holder in holders.items():
        if dump.jobs.get(holder, {"status": "failed"})["status"] in ENDED:
            yield f"thread {thread} is held by {holder}: {dump.jobs.get(holder)}"
    for thread, line in lines.items():
        if thread not in holders or holders[thread] in line:
            yield f"{line} wait for thread {thread}, held by {holders.get(thread)}"
    for ref, job in dump.jobs.items():
        if "thread" not in job:
            continue
        thread = f"{ref.partition(':')[0]}:{job['thread']}"
        waits = ref in dump.due or ref in lines.get(thread, {})
        if job["status"] not in ENDED and not waits and holders.get(thread) != ref:
            yield f"{ref} is {job['status']} while its thread is held by {holders.get(thread)}"
        if job["thread"] != digest(job["thread_id"]):
            yield f"{ref} is of thread {job['thread_id']!r}, but stands in {job['thread']}"
