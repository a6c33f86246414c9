"""What must hold in Redis after each transition, whatever the transitions were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from redis import Redis

from shared.store.keys import KEYS, digest, key
from tests.store_dump import Dump, Record, read_all

ENDED = {"succeeded", "failed", "cancelled"}


def audit(redis: Redis) -> list[str]:
    """A sentence for each thing that is wrong; none where all jobs are where they should be."""
    return faults(read_all(redis))


def faults(dump: Dump) -> list[str]:
    """`audit` of what was read before."""
    checks = (
        _wrong_places, _wrong_depths, _wrong_leases, _wrong_ends, _wrong_indexes, _wrong_threads, _wrong_heads,
        _wrong_belongings, _wrong_deliveries, _wrong_hosts, _wrong_delivery_indexes, _wrong_addresses,
    )  # fmt: skip
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


def _wrong_depths(dump: Dump) -> Iterator[str]:
    """The queued jobs, and no others, count against the depth of their queue and tenant."""
    waiting: dict[str, set[str]] = defaultdict(set)
    for ref, job in dump.jobs.items():
        if job["status"] == "queued":
            tenant, _, job_id = ref.partition(":")
            waiting[f"{tenant}:{job['queue']}"].add(job_id)
    if dump.sets["waiting"] != waiting:
        yield f"waiting are {dump.sets['waiting']}, the records say {dict(waiting)}"


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
    for ref, job in dump.jobs.items():
        if job["graph"] not in dump.sets["graphs"].get(ref.partition(":")[0], ()):
            yield f"the graph of {ref} is not among the graphs that have an index"
        if job["queue"] not in dump.sets["queues"].get("", ()):
            yield f"the queue of {ref} is not among the queues"


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
        thread = _thread_of(ref, job)
        waits = ref in dump.due or ref in lines.get(thread, {})
        if job["status"] not in ENDED and not waits and holders.get(thread) != ref:
            yield f"{ref} is {job['status']} while its thread is held by {holders.get(thread)}"
        if job["thread"] != digest(job["thread_id"]):
            yield f"{ref} is of thread {job['thread_id']!r}, but stands in {job['thread']}"


def _thread_of(ref: str, job: Record) -> str:
    return f"{ref.partition(':')[0]}:{job['thread']}"


def _wrong_heads(dump: Dump) -> Iterator[str]:
    """A head names the job that moved it; one that has, and has not ended, moved it last."""
    heads = dump.hashes["head"]
    for thread, head in heads.items():
        if "job" not in head:
            yield f"the head of thread {thread} names no job: {head}"
    for ref, job in dump.jobs.items():
        if "stepped" in job and job["status"] not in ENDED:
            moved_by = heads.get(_thread_of(ref, job), {}).get("job")
            if moved_by != ref:
                yield f"{ref} has moved the head of its thread, and so has {moved_by}"
    for ref in dump.hashes["head_before"]:
        if dump.jobs.get(ref, {"status": "succeeded"})["status"] == "succeeded":
            yield f"a head is kept for {ref}, which cannot start again: {dump.jobs.get(ref)}"


def _wrong_belongings(dump: Dump) -> Iterator[str]:
    """Each job has its input, and nothing is left of a job that is gone, or kept for a round that is over."""
    if set(dump.strings["input"]) != set(dump.jobs):
        yield f"inputs are of {set(dump.strings['input'])}, jobs are {set(dump.jobs)}"
    if not set(dump.lengths["events"]) <= set(dump.jobs):
        yield f"events are left of {set(dump.lengths['events']) - set(dump.jobs)}"
    for ref in dump.strings["resume"]:
        job = dump.jobs.get(ref, {})
        if job.get("status", "succeeded") in {"succeeded", "interrupted"} or "resumed" not in job:
            yield f"an answer is kept for {ref}: {job}"
    for ref in dump.hashes["checkpoints"]:
        if dump.jobs.get(ref, {}).get("status", "succeeded") == "succeeded":
            yield f"checkpoints are kept for {ref}: {dump.jobs.get(ref)}"
    for worker, number in dump.strings["claims"].items():
        if not number.isdigit():
            yield f"the void claims of {worker} are {number}"


def _wrong_deliveries(dump: Dump) -> Iterator[str]:
    """Each delivery is in its job's list, once, and waits in exactly one place, with a record of that very end."""
    deliveries = dump.hashes["delivery"]
    listed = [(ref, name) for ref, names in dump.lists["deliveries"].items() for name in names]
    found = [(fields["job"], dref.partition(":")[2]) for dref, fields in deliveries.items() if "job" in fields]
    if len(set(listed)) < len(listed) or not set(found) <= set(listed):
        yield f"deliveries are {sorted(found)}, the jobs' lists say {sorted(listed)}"
    for dref, fields in deliveries.items():
        line = dump.zsets["host_line"].get(fields["host"], {})
        leases, expiry = dump.zsets["deliveries_leases"].get("", {}), dump.zsets["deliveries_expiry"].get("", {})
        places = [name for name, place in (("line", line), ("leases", leases), ("expiry", expiry)) if dref in place]
        right = [["line"], ["leases"]] if fields["status"] == "pending" else [["expiry"]]
        if places not in right:
            yield f"delivery {dref} is {fields['status']} and in {places}"
        if ("worker" in fields) != (dref in leases):
            yield f"delivery {dref} is sent by {fields.get('worker')}, with its lease in {places}"
        if "line" in places and line[dref] != int(fields["next_at"]):
            yield f"delivery {dref} is due at {line[dref]:.0f}, but says {fields['next_at']}"
        record = dump.hashes["delivery_record"].get(dref)
        if record and f"_{record['round']}_{record['status']}" not in dref:
            yield f"delivery {dref} has a record of {record['status']} in round {record['round']}"


def _wrong_hosts(dump: Dump) -> Iterator[str]:
    """Each host with a line is among the hosts, by the time of its next delivery, and knows what is sent to it."""
    sending: dict[str, set[str]] = defaultdict(set)
    for dref in dump.zsets["deliveries_leases"].get("", {}):
        sending[dump.hashes["delivery"].get(dref, {}).get("host", "?")].add(dref)
    if dump.sets["host_sending"] != sending:
        yield f"hosts are being sent {dump.sets['host_sending']}, the leases say {dict(sending)}"
    hosts = {}
    for name, line in dump.zsets["host_line"].items():
        host = dump.hashes["host"].get(name, {})
        hosts[name] = float("inf") if "full" in host else max(min(line.values()), float(host.get("paused_until", 0)))
        if "full" in host and name not in sending:
            yield f"host {name} is full, and nothing is being sent to it"
    if dump.zsets["hosts"].get("", {}) != hosts:
        yield f"hosts are {dump.zsets['hosts']}, the lines say {hosts}"


def _wrong_delivery_indexes(dump: Dump) -> Iterator[str]:
    """Each delivery has one entry, of its target, status and last change."""
    wanted = {
        (dref, f"{fields['target']}:{fields['status']}", fields["changed_at"])
        for dref, fields in dump.hashes["delivery"].items()
    }
    found = []
    for name, members in dump.zsets["deliveries_index"].items():
        tenant, _, rest = name.partition(":")
        found += [(f"{tenant}:{delivery_id}", rest, f"{at:.0f}") for delivery_id, at in members.items()]
    if sorted(found) != sorted(wanted):
        yield f"deliveries are indexed as {sorted(found)}, they say {sorted(wanted)}"
    for dref, fields in dump.hashes["delivery"].items():
        if fields["target"] not in dump.sets["targets"].get(dref.partition(":")[0], ()):
            yield f"the target of {dref} is not among those that have an index"


def _wrong_addresses(dump: Dump) -> Iterator[str]:
    """Exactly the disabled addresses are among the disabled, and the health of each URL is forgotten some day."""
    health = {**dump.hashes["address"], **dump.hashes["endpoint"]}
    disabled = {name for name, fields in health.items() if "disabled_at" in fields}
    if set(dump.zsets["disabled"].get("", {})) != disabled:
        yield f"disabled are {dump.zsets['disabled']}, the addresses say {disabled}"
    if set(dump.zsets["addresses_expiry"].get("", {})) != set(dump.hashes["address"]):
        yield f"URLs are kept until {dump.zsets['addresses_expiry']}, there are {set(dump.hashes['address'])}"
