"""Planted bugs: the order of a thread, its head, and what is kept for a retry or a resume."""

from __future__ import annotations

from tests.planted.bug import Bug

THREADS = [
    Bug("a thread is not released", "prelude", "if not job.thread then return end", "if true then return end"),
    Bug(
        "a thread's line is in the order of names",
        "prelude",
        "call('ZADD', line, call('HINCRBY', thread, 'seq', 1), ref)",
        "call('ZADD', line, 0, ref)",
    ),
    Bug(
        "the last in a thread's line is next",
        "prelude",
        "call('ZRANGE', line, 0, 0)[1]",
        "call('ZRANGE', line, -1, -1)[1]",
    ),
    Bug("a thread is given to two jobs", "prelude", "if holder and holder ~= ref then", "if false then"),
    Bug(
        "a backoff gives up the place in the thread",
        "release",
        "if delay > 0 then",
        "if delay > 0 then leave_thread(ref, job)",
    ),
    Bug(
        "a delayed job holds its thread before it is due",
        "submit",
        "call('ZADD', KEY.due, int(due), ref)",
        "call('ZADD', KEY.due, int(due), ref) "
        "if job.thread then call('HSETNX', thread_keys(ref, job), 'holder', ref) end",
    ),
    Bug(
        "on_busy=cancel starts the next before the one ahead has ended",
        "submit",
        "ask_to_cancel(holder, ahead)",
        "ask_to_cancel(holder, ahead) leave_thread(holder, ahead)",
    ),
    Bug("on_busy=reject is ignored", "submit", "if holder and on_busy == 'reject'", "if false"),
    Bug("a retry ignores that its thread has moved on", "retry", "if moved_on and from ~= 'start'", "if false"),
    Bug(
        "a retry ignores that its thread is busy",
        "retry",
        "(holder or call('HGET', head, 'job') ~= ref)",
        "call('HGET', head, 'job') ~= ref",
    ),
    Bug(
        "a retry from the start goes on from the thread's head",
        "retry",
        "if job.stepped and not holder",
        "if false and not holder",
    ),
    Bug(
        "a retry from the start takes a head from the one that runs",
        "retry",
        "if job.stepped and not holder and",
        "if job.stepped and",
    ),
    Bug("a retry from the start keeps the checkpoints", "retry", "KEY.checkpoints .. ref, KEY.resume", "KEY.resume"),
    Bug(
        "a retry forgets the answer of a resume",
        "retry",
        "new_round(ref, job, ARGV[4])",
        "new_round(ref, job, ARGV[4]) call('DEL', KEY.resume .. ref)",
    ),
    Bug(
        "a head before is that of the thread, not of the job",
        "prelude",
        "KEY.head_before .. ref end",
        "KEY.head_before .. tenant_of(ref) .. ':' .. job.thread end",
    ),
    Bug("an answer is given to the next question too", "finish", "call('UNLINK', KEY.resume .. ref)", ""),
    Bug(
        "checkpoints stay where nobody needs them",
        "ends",
        "call('UNLINK', KEY.checkpoints .. ref, KEY.resume .. ref, KEY.head_before .. ref)",
        "",
    ),
]
