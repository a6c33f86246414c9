"""What must hold in Redis after each transition, whatever the transitions were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from redis import Redis

from shared.store.keys import KEYS, digest, key

ENDED = {"succeeded", "failed", "cancelled"}
Record = dict[str, str]


def audit(redis: Redis) -> list[str]:
    """A sentence for each thing that is wrong; none where all jobs are where they should be."""
    jobs = {ref: record for ref, record in _records(redis)}
    return [
        *_wrong_places(redis, jobs),
        *_wrong_leases(redis, jobs),
        *_wrong_ends(redis, jobs),
        *_wrong_indexes(redis, jobs),
        *_wrong_threads(redis, jobs),
    ]


def _wrong_places(redis: Redis, jobs: dict[str, Record]) -> Iterator[str]:
    """Each queued job waits in exactly one place, a running one is leased, and nothing else is anywhere."""
    places: dict[str, list[str]] = defaultdict(list)
    for place in [*_names(redis, "lane"), *_names(redis, "line"), key("due"), key("leases"), *_solo_lanes(redis)]:
        for member in redis.zrange(place, 0, -1):
            places[member.decode()].append(place)
    for ref in {*jobs, *places}:
        wanted = _right_places(ref, jobs[ref]) if ref in jobs else []
        if not (places[ref] == wanted == [] or (len(places[ref]) == 1 and places[ref][0] in wanted)):
            yield f"{ref} is in {places[ref]}: {jobs.get(ref)}"
    for queue in _names(redis, "lanes"):
        name = queue.removeprefix(key("lanes"))
        named = {key("lane", name, lane.decode()) for lane in redis.smembers(queue)}
        filled = {lane for lane in _names(redis, "lane") if lane.startswith(key("lane", name, ""))}
        if named != filled:
            yield f"{queue} names {named}, but the lanes are {filled}"


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


def _wrong_leases(redis: Redis, jobs: dict[str, Record]) -> Iterator[str]:
    """The running jobs are those with a fence, those that their worker holds, and they alone can be marked to be cancelled."""
    running = {ref: f"{job['worker']} {job['attempt']}" for ref, job in jobs.items() if job["status"] == "running"}
    fences = {
        name.removeprefix(KEYS["running"]): (redis.get(name) or b"").decode() for name in _names(redis, "running")
    }
    held = {
        member.decode(): name.removeprefix(KEYS["held"])
        for name in _names(redis, "held")
        for member in redis.smembers(name)
    }
    if fences != running:
        yield f"fences are {fences}, running are {running}"
    if held != {ref: fence.rpartition(" ")[0] for ref, fence in running.items()}:
        yield f"held are {held}, running are {running}"
    for ref, job in jobs.items():
        if "cancel" in job and job["status"] != "running":
            yield f"{ref} is marked to be cancelled, but is {job['status']}"


def _wrong_ends(redis: Redis, jobs: dict[str, Record]) -> Iterator[str]:
    """Exactly the ended jobs have a result and a retention."""
    ended = {ref for ref, job in jobs.items() if job["status"] in ENDED}
    results = {name.removeprefix(KEYS["result"]) for name in _names(redis, "result")}
    expiring = {member.decode() for member in redis.zrange(key("expiry"), 0, -1)}
    if results != ended:
        yield f"results are of {results}, ended are {ended}"
    if expiring != ended:
        yield f"retention is set for {expiring}, ended are {ended}"
    for ref, job in jobs.items():
        if (job["status"] in ENDED | {"interrupted"}) != ("finished_at" in job):
            yield f"{ref} is {job['status']} with finished_at {job.get('finished_at')}"


def _wrong_indexes(redis: Redis, jobs: dict[str, Record]) -> Iterator[str]:
    """Each job has one entry, of its own status and creation time, and one in its thread's index, if its thread is known."""
    unknown = {ref for ref, job in jobs.items() if "unreadable_record" in job.get("error", "") and "thread" not in job}
    for short, wanted in (
        ("index", {(ref, (job["graph"], job["status"]), job["created_at"]) for ref, job in jobs.items()}),
        ("index_thread", {(r, (job["thread"],), job["created_at"]) for r, job in jobs.items() if "thread" in job}),
    ):
        found = []
        for name in _names(redis, short):
            tenant, *rest = name.removeprefix(KEYS[short]).split(":")
            for member, score in redis.zrange(name, 0, -1, withscores=True):
                ref = f"{tenant}:{member.decode()}"
                if short == "index" or ref not in unknown:
                    found.append((ref, tuple(rest), f"{score:.0f}"))
        if sorted(found) != sorted(wanted):
            yield f"{short} has {sorted(found)}, the records say {sorted(wanted)}"


def _wrong_threads(redis: Redis, jobs: dict[str, Record]) -> Iterator[str]:
    """A thread that is busy belongs to a job that has not ended; whoever is past the line is that job."""
    holders = {
        name.removeprefix(KEYS["thread"]): (redis.hget(name, "holder") or b"").decode()
        for name in _names(redis, "thread")
    }
    lines = {name.removeprefix(KEYS["line"]): redis.zrange(name, 0, -1) for name in _names(redis, "line")}
    for thread, holder in holders.items():
        if holder not in jobs or jobs[holder]["status"] in ENDED:
            yield f"thread {thread} is held by {holder}: {jobs.get(holder)}"
    for thread, line in lines.items():
        if thread not in holders or holders[thread].encode() in line:
            yield f"{line} wait for thread {thread}, held by {holders.get(thread)}"
    for ref, job in jobs.items():
        thread = f"{ref.partition(':')[0]}:{job.get('thread')}"
        waits = redis.zscore(key("due"), ref) is not None or ref.encode() in lines.get(thread, [])
        if "thread" in job and job["status"] not in ENDED and not waits and holders.get(thread) != ref:
            yield f"{ref} is {job['status']} while its thread is held by {holders.get(thread)}"
        if "thread" in job and job["thread"] != digest(job["thread_id"]):
            yield f"{ref} is of thread {job['thread_id']!r}, but stands in {job['thread']}"


def _records(redis: Redis) -> Iterator[tuple[str, Record]]:
    for name in _names(redis, "job"):
        record = {field.decode(): value.decode() for field, value in redis.hgetall(name).items()}
        yield name.removeprefix(KEYS["job"]), record


def _solo_lanes(redis: Redis) -> list[str]:
    return [name for name in _names(redis, "solo") if not name.endswith(":for")]


def _names(redis: Redis, short: str) -> list[str]:
    return [name.decode() for name in redis.keys(KEYS[short] + "*")]
