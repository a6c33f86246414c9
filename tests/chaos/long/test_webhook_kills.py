"""Senders die all the time: each webhook arrives, under its one id, soon again, and the record says so."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.chaos.latency import figures
from tests.chaos.long.delivery_run import AT_ONCE, FAIL_EVERY, LEASE_SECONDS, WORKERS, CutTry, DeliveryRun
from tests.chaos.webhook_promises import Arrivals, records_of, wrong_messages, wrong_records
from tests.servers import Processes, Valkey, wait_until
from tests.store_audit import audit

JOBS = 10_000
KILLS = 12
BACKLOG = 3000
END_SECONDS = 150.0
# A lease may have been renewed just before the kill. The rest is for claiming it, and for a machine of two busy cores.
AGAIN_SECONDS = LEASE_SECONDS + 2
WORST_SECONDS = AGAIN_SECONDS + 3  # where both workers were killed, one has to start first
CLOCKS_DIFFER = 0.05
NEVER = float("inf")
Report = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path, processes: Processes, valkey_server: Valkey) -> Iterator[DeliveryRun]:
    valkey_server.flush()
    run = DeliveryRun(tmp_path, processes, valkey_server)
    with run.workers:
        run.ready()
        yield run
    run.close()


def test_each_webhook_arrives_while_its_senders_are_killed(run: DeliveryRun, report: Report) -> None:
    """10,000 jobs and their webhooks through two workers, with a `kill -9` after each thirteenth of them.

    Some answers are failures, so that retries are under way too.
    """
    begun = time.monotonic()
    run.submit(JOBS)
    for number in range(KILLS):
        share = JOBS * (number + run.random.random()) / (KILLS + 1)
        wait_until(lambda share=share: run.delivered() >= share, END_SECONDS, what="more webhooks are delivered")
        run.kill_one(sending=AT_ONCE // 2 if number % 2 else 0)
    arrivals = check_all(run, report, begun)
    failing = Counter(arrival.status for found in arrivals.values() for arrival in found if arrival.status != 204)
    assert set(failing) == {0, 500, 503}
    assert failing.total() > JOBS / FAIL_EVERY / 2, "there were answers to try again after"


def test_the_webhooks_of_a_killed_sender_go_before_a_backlog(run: DeliveryRun, report: Report) -> None:
    """3,000 webhooks are due at once. A worker is killed while it sends as many as it may, and later both are."""
    begun = time.monotonic()
    run.end_jobs(BACKLOG)
    wait_until(run.delivered, END_SECONDS, what="the first webhook is delivered")
    run.kill_one(sending=AT_ONCE // 2)
    wait_until(lambda: run.delivered() > BACKLOG / 4, END_SECONDS, what="a quarter of the webhooks is delivered")
    run.kill_both()
    assert run.delivered() < BACKLOG / 2, "there is a backlog"
    check_all(run, report, begun)


def check_all(run: DeliveryRun, report: Report, begun: float) -> Arrivals:
    """What every run must show, once all is delivered. Gives what arrived."""
    count = len(run.receiver_of)
    wait_until(lambda: run.delivered() == count, END_SECONDS, what="all webhooks are delivered")
    seconds = time.monotonic() - begun
    run.ready()  # one that was killed just now has a successor that does not know SIGTERM yet
    statuses = run.workers.stop()
    arrived = run.arrivals()
    records = records_of(run.redis_url)
    arrivals: Arrivals = defaultdict(list)
    for _, arrival in arrived:
        arrivals[arrival.id].append(arrival)
    again = list(tried_again(run, arrivals))
    unrecorded = sum(len(found) - len(records[name]["attempts"]) for name, found in arrivals.items() if name in records)
    answers = Counter(str(arrival.status or "dropped") for _, arrival in arrived)
    report(
        webhooks=count,
        kills=run.kills,
        seconds=round(seconds, 1),
        webhooks_a_second=round(count / seconds),
        requests=len(arrived),
        requests_by_scheme=dict(Counter(receiver.scheme for receiver, _ in arrived)),
        requests_by_answer=dict(sorted(answers.items())),
        tries_cut_off=len(run.cuts),
        webhooks_sent_again=unrecorded,
        seconds_from_kill_to_next_try=figures(again) if again else {},
        warnings=dict(Counter(line["event"] for line in run.workers.log_lines("warning", "error", "raw"))),
    )
    wanted = {f"{job}_1_succeeded": receiver for job, receiver in run.receiver_of.items()}
    assert set(arrivals) == set(wanted), "each webhook arrived, under one id, and nothing else"
    assert all(wanted[arrival.id] is receiver for receiver, arrival in arrived), "each at its own receiver"
    assert list(wrong_messages(arrivals)) == []
    assert list(wrong_records(arrivals, records)) == []
    assert len(run.cuts) > run.kills * AT_ONCE / 8, "tries were under way in the killed workers"
    assert max(again) < WORST_SECONDS
    assert sorted(again)[len(again) // 2] < AGAIN_SECONDS
    assert unrecorded <= run.kills * AT_ONCE, "no more came twice than the killed workers could have under way"
    assert statuses == [0] * WORKERS
    assert list(run.workers.log_lines("error", "critical", "raw")) == []
    assert audit(run.redis) == []
    return arrivals


def tried_again(run: DeliveryRun, arrivals: Arrivals) -> Iterator[float]:
    """Seconds from the kill of a sender to the next try: what came before the lease's end, the killed one had sent.

    Where that next one was cut off before it came, only the one after it counts, from the later kill on.
    """
    cuts: dict[str, list[CutTry]] = defaultdict(list)
    for cut in run.cuts:
        cuts[cut.delivery].append(cut)
    for delivery, found in cuts.items():
        for cut, later in zip_longest(found, found[1:]):
            at = [arrival.at for arrival in arrivals[delivery] if arrival.at > cut.lease_ends - CLOCKS_DIFFER]
            if later is None or (at and at[0] < later.killed_at):
                yield at[0] - cut.killed_at if at else NEVER
