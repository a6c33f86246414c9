"""Planted bugs: the fence, calls that are sent twice, cancel marks, claims without a reply."""

from __future__ import annotations

from tests.planted.bug import Bug

_FENCE = "return call('GET', KEY.running .. ref) == worker .. ' ' .. attempt end"
_FENCE_OF = "not holds(ref, worker, attempt)"

ATTEMPTS = [
    Bug("no fence", "ends", _FENCE, "return true end"),
    Bug(
        "a fence on the attempt alone",
        "ends",
        _FENCE,
        "return string.match(call('GET', KEY.running .. ref) or '', ' (%d+)$') == attempt end",
    ),
    Bug(
        "a fence on the worker alone",
        "ends",
        _FENCE,
        "return string.match(call('GET', KEY.running .. ref) or '', '^(.+) %d+$') == worker end",
    ),
    Bug("no fence at finish", "finish", _FENCE_OF, "false"),
    Bug("no fence at release", "release", _FENCE_OF, "false"),
    Bug("no fence at append", "append", _FENCE_OF, "false"),
    Bug("no fence at renew", "renew", "not holds(ref, worker, ARGV[i + 1])", "false"),
    Bug("no fence at checkpoint", "checkpoint", _FENCE_OF, "false"),
    Bug("no fence at pin", "pin", _FENCE_OF, "false"),
    Bug("the lost attempt is not struck off the record", "claim", "call('HDEL', KEY.job .. ref, 'worker')", ""),
    Bug("a submit that is sent twice is accepted twice", "submit", "if before then", "if false then"),
    Bug("an idempotency key is not looked up", "submit", "if known[2] then", "if false then"),
    Bug("an idempotency key is not kept", "submit", "call('HSET', idem, 'request', ARGV[11], ARGV[10], id)", ""),
    Bug("an idempotency key stands for any request", "submit", "if known[1] and known[1] ~= ARGV[11]", "if false"),
    Bug("a full queue takes more", "submit", "if full then", "if false then"),
    Bug("the depth of a tenant is not looked at", "depth", "if full or of_tenant == 0", "if true"),
    Bug("a new job does not wait", "submit", "call('SADD', waiting_key(ref, queue), id)", ""),
    Bug(
        "a job that is claimed still waits", "claim", "call_with('SREM', waiting_key(ref, job.queue), ids, 1, #ids)", ""
    ),
    Bug("a job that is cancelled still waits", "prelude", "if job.status == 'queued' then call", "if false then call"),
    Bug("a job that is queued again does not wait", "prelude", "if status == 'queued' then call", "if false then call"),
    Bug("a finish that is sent twice is not known", "ends", "return job and job.worker == worker", "return false"),
    Bug("a release that is sent twice is not known", "release", "job.released == worker .. ' ' .. attempt", "false"),
    Bug("a retry that is sent twice is not known", "retry", "if job.call == ARGV[4]", "if false"),
    Bug("a resume that is sent twice is not known", "resume", "if job.call == ARGV[4]", "if false"),
    Bug("a release for another try ignores the cancel mark", "release", "if job.cancel then", "if false then"),
    Bug("a lost job goes back though it is to be cancelled", "claim", "if job.cancel then", "if false then"),
    Bug("a disowned job goes back though it is to be cancelled", "disown", "if job.cancel then", "if false then"),
    Bug("an interrupt ignores that its job is to be cancelled", "finish", "and job.cancel then", "and false then"),
    Bug("a cancel mark outlives its round", "ends", "call('HDEL', KEY.job .. ref, 'cancel')", ""),
    Bug(
        "a cancel ends the round of an interrupt again",
        "ends",
        "if job.status == 'interrupted' then",
        "if false then",
    ),
    Bug(
        "on_busy=cancel ends the round of an interrupt again",
        "submit",
        "cancel_waiting(holder, ahead, ARGV[14])",
        "call('ZREM', KEY.due, holder) leave_lane(holder, ahead) final(holder, ahead, 'cancelled', {}, nil, ARGV[14])",
    ),
    Bug(
        "a claim that was given up takes jobs",
        "claim",
        ">= tonumber(ARGV[8]) then return",
        ">= tonumber(ARGV[8]) and false then return",
    ),
    Bug("a disowned job has lost a try", "disown", "int(tonumber(job.tries) - 1)", "job.tries"),
    Bug("a worker disowns what it knows", "disown", "and not known[ref .. ' ' .. job.attempt]", ""),
    Bug("a worker disowns nothing", "disown", "and not known[ref .. ' ' .. job.attempt]", "and false"),
]
