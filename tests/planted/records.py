"""Planted bugs: sets and indexes, rounds and tries, deliveries."""

from __future__ import annotations

from tests.planted.bug import Bug

RECORDS = [
    Bug("a job that nobody holds stays leased", "ends", "call('ZREM', KEY.leases, ref)", ""),
    Bug(
        "a worker's set keeps what it does not hold",
        "ends",
        "if fence then call('SREM'",
        "if false then call('SREM'",
    ),
    Bug(
        "a job that is due stays among those that are not",
        "claim",
        "call('ZREM', KEY.due, ref)\n  local job",
        "local job",
    ),
    Bug("a cancelled job stays among those not due", "ends", "call('ZREM', KEY.due, ref)\n  final", "final"),
    Bug("a job that is claimed stays in its lane", "claim", "call_with('ZREM', lane, of_lane.refs, 1, #ids)", ""),
    Bug("a job that is claimed has no lease", "claim", "call_with('ZADD', KEY.leases, leases, 1, #leases)", ""),
    Bug(
        "a lane that a claim has emptied stays named", "claim", "call('SREM', KEY.lanes", "call('SISMEMBER', KEY.lanes"
    ),
    Bug(
        "a job that is claimed stays in the index of those that wait",
        "claim",
        "call_with('ZREM', index_key(ref, job, 'queued'), ids, 1, #ids)",
        "",
    ),
    Bug(
        "a job that is cancelled stays in its lane",
        "prelude",
        "if call('ZREM', lane, ref) == 1",
        "if call('ZSCORE', lane, ref)",
    ),
    Bug("an empty lane stays named", "prelude", "call('SREM', KEY.lanes", "call('SISMEMBER', KEY.lanes"),
    Bug(
        "a job that has run alone stays in line for it",
        "claim",
        "call('ZREM', solo, ref)\n          call('DEL'",
        "call('DEL'",
    ),
    Bug("a job that is cancelled stays in line to run alone", "prelude", "call('ZREM', solo_key(job), ref)", ""),
    Bug("a parked job that is cancelled stays in line", "prelude", "call('ZREM', line, ref)\n", "\n"),
    Bug("the next of a thread stays in line", "prelude", "call('ZREM', line, waiting)", ""),
    Bug(
        "a job stays in the index of its old status",
        "prelude",
        "call('ZREM', index_key(ref, job, job.status), id_of(ref))",
        "",
    ),
    Bug("an erased job stays in its index", "ends", "call('ZREM', index, id)", ""),
    Bug(
        "an erased job stays in its thread's index",
        "ends",
        "call('ZREM', KEY.index_thread .. tenant .. ':' .. job.thread, id)",
        "",
    ),
    Bug("an erased job stays in retention", "ends", "call('ZREM', KEY.expiry, ref)\n  if not job", "if not job"),
    Bug("a job that runs again stays in retention", "ends", "call('ZREM', KEY.expiry, ref)\nend", "end"),
    Bug("an ended job is kept forever", "ends", "call('ZADD', KEY.expiry,", "call('ZREM', KEY.expiry, ref,"),
    Bug(
        "a round has the number of the last one",
        "ends",
        "int(tonumber(job.round) + 1), '0', '0'",
        "job.round, '0', '0'",
    ),
    Bug(
        "a resume goes on in the old round",
        "resume",
        "new_round(ref, job, ARGV[4])",
        "call('HSET', KEY.job .. ref, 'call', ARGV[4]) call('HDEL', KEY.job .. ref, 'finished_at')",
    ),
    Bug(
        "a job that runs again has the tries of its last round",
        "ends",
        "job.round, 'tries', '0', 'lost', '0',",
        "job.round,",
    ),
    Bug("a hand-back counts as a try", "release", "int(tonumber(job.tries) - 1)", "job.tries"),
    Bug("a backoff does not count as a try", "release", "if kind == 'hand_back' then", "if true then"),
    Bug("a lost worker does not count", "claim", "int(tonumber(job.lost) + 1)", "job.lost"),
    Bug(
        "a lost job is tried for ever",
        "claim",
        "elseif tonumber(job.tries) >= tonumber(job.max_attempts) then",
        "elseif false then",
    ),
    Bug(
        "a failing job is tried for ever",
        "release",
        "if kind == 'backoff' and tonumber(job.tries)",
        "if false and tonumber(job.tries)",
    ),
    Bug(
        "a lost job does not keep its rank",
        "claim",
        "requeue(ref, job, now)",
        "job.rank = int(now) call('HSET', KEY.job .. ref, 'rank', job.rank) requeue(ref, job, now)",
    ),
    Bug(
        "an end has two deliveries",
        "ends",
        "create_deliveries(ref, job, status, now)\n  notify",
        "create_deliveries(ref, job, status, now)\n  create_deliveries(ref, job, status, now)\n  notify",
    ),
    Bug("an end has no delivery", "ends", "create_deliveries(ref, job, status, now)\n  notify", "notify"),
    Bug("an interrupt has no delivery", "finish", "create_deliveries(ref, job, 'interrupted', now)", ""),
    Bug("a delivery is created and never due", "deliveries", "enter_line(dref, host, now)\n  wake", "wake"),
]
