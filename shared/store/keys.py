"""Every name in Redis, once: the Lua scripts are given this same table as `KEY`.

A *ref* is `<tenant>:<job id>`, the way a job is named inside the store; names that clients choose (`thread_id`,
`Idempotency-Key`) enter a key only as their SHA-1.

    mas:job:<ref>                        hash    the record (fields: see shared/records.py)
    mas:input:<ref>                      string  what the worker needs to run it, JSON bytes
    mas:resume:<ref>                     string  the answer that `resume` brought, JSON bytes
    mas:checkpoints:<ref>                hash    the checkpoints of a job without a thread (worker/checkpoints/jobs.py)
    mas:events:<ref>                     list    its events, JSON bytes; an event's id is its place, from 1
    arq:in-progress:<ref>                string  the fence of the running attempt: "<worker> <attempt>"
    arq:result:<ref>                     string  the output's JSON or empty; there once the job has ended
    mas:lane:<queue>:<graph>:<tenant>    zset    ref by rank: jobs that are ready
    mas:solo:<queue>:<graph>             zset    ref by rank: ready jobs that must run alone
    mas:solo:<queue>:<graph>:for         string  the busy worker that stops claiming to become free for it
    mas:lanes:<queue>                    set     "<graph>:<tenant>" of the lanes that are not empty
    mas:turns:<queue>                    zset    tenant by the time it was last served
    mas:queues                           set     queues that ever had a job
    mas:due                              zset    ref by due time: delayed jobs and backoffs
    mas:leases                           zset    ref by the end of its lease: running jobs
    mas:held:<worker>                    set     refs leased by one worker
    mas:thread:<tenant>:<sha1>           hash    holder (ref), seq
    mas:line:<tenant>:<sha1>             zset    ref by seq: jobs parked behind their thread
    mas:head:<tenant>:<sha1>             hash    the checkpoint that the thread stands at, and its job (prelude.lua)
    mas:head-before:<ref>                hash    the head of its thread as a job found it that has moved it
    mas:index:<tenant>:<graph>:<status>  zset    job id by creation time: each job is in exactly one
    mas:graphs:<tenant>                  set     graphs that have an index
    mas:index-thread:<tenant>:<sha1>     zset    job id by creation time
    mas:expiry                           zset    ref by the time its retention ends
    mas:waiting:<tenant>:<queue>         set     job id: all that are queued, also those that are not ready
    mas:drained:<tenant>:<queue>         string  how many were claimed of late (depth.lua)
    mas:idem:<tenant>:<sha1>             hash    request (its fingerprint), and the job id by place in it; for 24 hours
    mas:wake:<queue>:<graph>             list    tokens that wake idle workers
    mas:control:<worker>                 list    "cancel <ref> <attempt>"
    mas:claims:<worker>                  string  the number of its last claim that is void
    mas:worker:<worker>                  string  heartbeat, JSON, expires within seconds
    mas:workers                          zset    worker by its last heartbeat
    mas:pulse                            hash    last: when a keeper beat; unbroken_since: the first beat after a break
    mas:catalogue, mas:catalogue-errors  hash    graph id to JSON
    mas:notify                           channel "<ref> <status>", or "catalogue"
    mas:delivery:<dref>                  hash    a webhook delivery; dref is "<tenant>:<delivery id>"
    mas:delivery-record:<dref>           hash    the job's record as it ended
    mas:delivery-output:<dref>           string  its output, where it is not too large
    mas:delivery-attempts:<dref>         list    attempts, JSON bytes
    mas:deliveries:<ref>                 list    delivery ids of one job
    mas:deliveries-index:<tenant>:<target>:<status>
                                         zset    delivery id by the time of its last change: each is in exactly one
    mas:targets:<tenant>                 set     targets that have an index: endpoint ids, and "job" for URLs of jobs
    mas:hosts                            zset    host by the time its next delivery may be claimed; inf while it is full
    mas:host:<host>                      hash    full, limit, silent, pause, paused_until (scripts/deliveries.lua)
    mas:host-line:<host>                 zset    dref by due time
    mas:host-sending:<host>              set     drefs leased
    mas:deliveries-leases, -expiry       zset    dref by time
    mas:deliveries-wake                  list    tokens that wake an idle sender
    mas:endpoints:<tenant>               hash    endpoint id to its events ("*", or separated by commas)
    mas:endpoint:<tenant>:<id>           hash    an endpoint, its sealed secrets and its health
    mas:address:<tenant>:<sha1 of URL>   hash    the health of a URL that jobs name, kept while it fails or is disabled
    mas:addresses-expiry                 zset    "<tenant>:<sha1>" by time
    mas:disabled                         zset    "<tenant>:<endpoint id, or sha1>" by the time it was disabled
    mas:api-keys                         hash    key id to JSON without its secret; changes (a count)
    mas:tenant-limits                    hash    tenant to what is set for it (scripts/tenant_limits.lua)
    mas:tenant-limits-changes            string  a count
    mas:held-back:<tenant>               set     "<queue>:<graph>" of lanes that a claim passed over for max_running
    mas:rate:<key id, or tenant>         string  "<begin of its minute in ms> <requests handed out>"
    mas:health-check                     string  what `arq --check` reads
    mas:room                             -       never there: deleting it is the write that a full Redis allows
    mas:aside:<ref>                      any     what stood where a record should have been
"""

from __future__ import annotations

from hashlib import sha1

TENANT_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"

KEYS = {
    "job": "mas:job:",
    "input": "mas:input:",
    "resume": "mas:resume:",
    "checkpoints": "mas:checkpoints:",
    "events": "mas:events:",
    "running": "arq:in-progress:",
    "result": "arq:result:",
    "lane": "mas:lane:",
    "solo": "mas:solo:",
    "lanes": "mas:lanes:",
    "turns": "mas:turns:",
    "queues": "mas:queues",
    "due": "mas:due",
    "leases": "mas:leases",
    "held": "mas:held:",
    "thread": "mas:thread:",
    "line": "mas:line:",
    "head": "mas:head:",
    "head_before": "mas:head-before:",
    "index": "mas:index:",
    "graphs": "mas:graphs:",
    "index_thread": "mas:index-thread:",
    "expiry": "mas:expiry",
    "waiting": "mas:waiting:",
    "drained": "mas:drained:",
    "idem": "mas:idem:",
    "wake": "mas:wake:",
    "control": "mas:control:",
    "claims": "mas:claims:",
    "worker": "mas:worker:",
    "workers": "mas:workers",
    "pulse": "mas:pulse",
    "catalogue": "mas:catalogue",
    "catalogue_errors": "mas:catalogue-errors",
    "notify": "mas:notify",
    "delivery": "mas:delivery:",
    "delivery_record": "mas:delivery-record:",
    "delivery_output": "mas:delivery-output:",
    "delivery_attempts": "mas:delivery-attempts:",
    "deliveries": "mas:deliveries:",
    "deliveries_index": "mas:deliveries-index:",
    "targets": "mas:targets:",
    "hosts": "mas:hosts",
    "host": "mas:host:",
    "host_line": "mas:host-line:",
    "host_sending": "mas:host-sending:",
    "deliveries_leases": "mas:deliveries-leases",
    "deliveries_expiry": "mas:deliveries-expiry",
    "deliveries_wake": "mas:deliveries-wake",
    "endpoints": "mas:endpoints:",
    "endpoint": "mas:endpoint:",
    "address": "mas:address:",
    "addresses_expiry": "mas:addresses-expiry",
    "disabled": "mas:disabled",
    "api_keys": "mas:api-keys",
    "tenant_limits": "mas:tenant-limits",
    "tenant_limits_changes": "mas:tenant-limits-changes",
    "held_back": "mas:held-back:",
    "rate": "mas:rate:",
    "aside": "mas:aside:",
    "health": "mas:health-check",
    "room": "mas:room",
}


def key(name: str, *parts: str) -> str:
    """A key by its short name: `key("lane", "default", "echo", "acme")` is `mas:lane:default:echo:acme`."""
    return KEYS[name] + ":".join(parts)


def ref(tenant: str, job_id: str) -> str:
    """A job's name inside the store."""
    return f"{tenant}:{job_id}"


def digest(name: str) -> str:
    """What stands in a key for a name that a client chose."""
    return sha1(name.encode(), usedforsecurity=False).hexdigest()
