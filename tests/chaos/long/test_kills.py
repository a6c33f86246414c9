"""Workers die all the time: no job is lost, none ends twice, none waits for longer than it must."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shared.store.keys import key
from tests.chaos.latency import Restart, figures, restarts
from tests.chaos.load import Planned, mixed, short
from tests.chaos.long.conftest import LEASE_SECONDS, WORKERS, Chaos
from tests.chaos.promises import (
    lost_without_a_kill,
    overlapping_attempts,
    overtaken,
    repeated_steps,
    unkept_cuts,
    wrong_ends,
    wrong_results,
    wrong_threads,
)
from tests.chaos.remains import left_over, places_taken
from tests.chaos.schedule import play
from tests.store_audit import audit

KILL_SECONDS = 3.0
# The promise is one lease + 1 s; a machine of two busy cores may take this much longer.
WORST_SECONDS = LEASE_SECONDS + 1 + 2
Report = Callable[..., None]


def test_each_job_succeeds_once_while_workers_are_killed(chaos: Chaos, report: Report) -> None:
    """1,200 jobs over two minutes, half of them in threads, and a `kill -9` each three seconds."""
    batches = list(mixed(100, chaos.random))
    play(
        *((1.1 * number, lambda batch=batch: chaos.submit(batch)) for number, batch in enumerate(batches)),
        *((KILL_SECONDS * number, chaos.kill_one) for number in range(1, 41)),
    )
    check_all(chaos, report)


def test_recovered_jobs_go_before_a_backlog(chaos: Chaos, report: Report) -> None:
    """The same, with 1,500 more jobs waiting: those of a killed worker are first in line again."""
    chaos.submit([plan for batch in mixed(30, chaos.random) for plan in batch])
    for _ in range(2):
        chaos.submit(short(750, chaos.random))
    play(*((KILL_SECONDS * number, chaos.kill_one) for number in range(1, 17)))
    found = check_all(chaos, report)
    assert sum(one.waiting > 300 for one in found) > len(found) / 2, "there was no backlog"


def test_a_job_that_kills_its_worker_takes_no_other_with_it(chaos: Chaos) -> None:
    killers = [Planned(f"killer.{number}", "killer", (0,), max_attempts=3) for number in range(3)]
    others = [Planned(f"other.{number}", "one_step", (0.5,), max_attempts=3) for number in range(60)]
    chaos.submit([plan for number in range(3) for plan in [killers[number], *others[20 * number :][:20]]])
    documents = chaos.ended()
    for job, plan in chaos.planned.items():
        document = documents[job]
        if plan in killers:
            assert (document["status"], document["error"]["code"]) == ("failed", "worker_lost")
            assert (document["tries"], document["attempt"]) == (3, 3)
        else:
            assert document["status"] == "succeeded", document
    traces = chaos.traces()
    for job, plan in chaos.planned.items():
        last = traces.lines[job][-1]
        assert plan not in killers or last.attempt == 3, "the last try of a killer ran, alone in its worker"
        assert plan in killers or last.event == "end"
    # Killers may have met in one worker in their tries before the last.
    assert set(chaos.workers.statuses.values()) == {1}, "nothing else ended a worker"
    assert 5 <= len(chaos.workers.statuses) <= 9
    check_nothing_is_left(chaos)


def check_all(chaos: Chaos, report: Report) -> list[Restart]:
    """What every run must show. Prints its figures as soon as they are known; gives the restarts."""
    documents = chaos.ended()
    traces = chaos.traces()
    assert list(wrong_results(chaos.planned, documents)) == []
    assert list(unkept_cuts(chaos.kills, traces)) == []
    found = restarts(chaos.kills, traces, LEASE_SECONDS)
    webhook_ids = chaos.wait_for_deliveries()
    attempts = Counter(document["attempt"] for document in documents.values())
    lost = lost_without_a_kill(chaos.kills, traces)
    report(
        jobs=len(documents),
        kills=len(chaos.kills),
        attempts_cut_off=len(found),
        attempts_lost_without_a_kill=len(lost),
        jobs_by_attempts=dict(sorted(attempts.items())),
        seconds_from_claim_or_last_renewal_to_restart=figures(one.since_renewal for one in found),
        seconds_from_kill_to_restart=figures(one.since_kill for one in found),
        seconds_from_start_to_restart=figures(one.since_start for one in found),
        seconds_from_end_of_lease_to_restart=figures(one.since_lease_end for one in found),
        seconds_of_that_to_lane=figures(one.to_lane for one in found),
        seconds_of_that_to_claim=figures(one.to_claim for one in found),
        seconds_of_that_to_step=figures(one.to_step for one in found),
        jobs_waiting_at_restart=figures(one.waiting for one in found),
        webhooks=len(set(webhook_ids)),
        webhooks_sent_again=len(webhook_ids) - len(set(webhook_ids)),
        warnings=dict(Counter(line["event"] for line in chaos.workers.log_lines("warning", "error", "raw"))),
    )
    assert list(wrong_ends(chaos.planned, traces)) == []
    assert list(overlapping_attempts(chaos.planned, traces.without(lost))) == []
    assert list(wrong_threads(chaos.planned, traces.without(lost))) == []
    assert list(overtaken(traces)) == []
    assert len(lost) < len(found) / 4, "a worker that lives keeps its leases"
    assert max(one.since_renewal for one in found) < WORST_SECONDS
    assert max(one.since_kill for one in found) < WORST_SECONDS
    wanted = {f"{job}_1_succeeded" for job, plan in chaos.planned.items() if plan.webhook}
    assert set(webhook_ids) == wanted, "one webhook for each job's end"
    assert list(chaos.workers.log_lines("error", "critical")) == []
    assert chaos.redis.keys(key("checkpoints", "*")) == [], "a job that has succeeded keeps none"
    check_nothing_is_left(chaos)
    assert list(repeated_steps(chaos.planned, traces)) == []
    return found


def check_nothing_is_left(chaos: Chaos) -> None:
    """No place in the queue, no lease, no busy thread; and nothing of the jobs once their retention is over."""
    assert chaos.workers.stop() == [0] * WORKERS
    assert audit(chaos.redis) == []
    assert places_taken(chaos.redis) == {}
    assert left_over(chaos.redis, chaos.redis_url) == []
