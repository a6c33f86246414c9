"""Webhooks on real processes: nothing that happens to a worker delays a delivery for long, or sends one in vain."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest

from tests.acceptance.conftest import Service
from tests.receivers import Receiver, Reply
from tests.servers import wait_until


def delivered(service: Service, job_id: str) -> dict[str, Any]:
    """The job's one delivery, once it is delivered."""

    def found() -> dict[str, Any] | None:
        (delivery,) = service.client.http.get(f"/jobs/{job_id}/deliveries").json()["items"] or [{"status": "none"}]
        return delivery if delivery["status"] == "delivered" else None

    return wait_until(found, 20, what="it is delivered")  # type: ignore[return-value]


@pytest.mark.parametrize("how", ["sleep", "spin"])
def test_a_node_that_blocks_its_worker_for_half_a_minute_delays_no_delivery(service: Service, how: str) -> None:
    service.start_workers(1)
    with Receiver() as receiver:
        receiver.reply(Reply(500))
        job_id = service.client.submit("echo", {"value": 1}, webhook={"url": receiver.url})
        receiver.wait_for(1)
        wait_until(lambda: service.client.http.get(f"/jobs/{job_id}/deliveries").json()["items"][0]["attempts"])
        due = service.client.http.get(f"/jobs/{job_id}/deliveries").json()["items"][0]["next_attempt_at"]
        blocker = service.client.submit("blocker", {"how": how, "seconds": 30})
        wait_until(lambda: service.client.job(blocker)["status"] == "running")
        _, second = receiver.wait_for(2, timeout=20)
        assert service.client.job(blocker)["status"] == "running"
        assert 0 <= second.at - datetime.fromisoformat(due).timestamp() < 1


def test_a_receiver_that_takes_longer_than_a_lease_gets_the_message_once(service: Service) -> None:
    service.start_workers(2, LEASE_SECONDS="1")
    with Receiver(default=Reply(delay=4)) as receiver:
        job_id = service.client.submit("echo", {"value": 1}, webhook={"url": receiver.url})
        delivery = delivered(service, job_id)
        assert len(receiver.requests) == 1
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [204]


def test_a_killed_sender_s_delivery_is_sent_again_when_its_lease_ends(service: Service) -> None:
    lease = 2.0
    doomed, heir = service.start_workers(2, LEASE_SECONDS=str(lease))
    heir.pause()
    with Receiver() as receiver:
        receiver.reply(Reply(delay=60))
        job_id = service.client.submit("echo", {"value": 1}, webhook={"url": receiver.url})
        receiver.wait_for(1)
        heir.resume()
        killed_at = time.time()
        doomed.kill()
        first, second = receiver.wait_for(2)
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert second.at - killed_at < lease + 2
        assert [attempt["status_code"] for attempt in delivered(service, job_id)["attempts"]] == [204]


def test_a_stopped_sender_hands_back_what_it_cannot_finish(service: Service) -> None:
    stopping, heir = service.start_workers(2, LEASE_SECONDS="60")
    heir.pause()
    with Receiver() as receiver:
        receiver.reply(Reply(delay=60))
        job_id = service.client.submit("echo", {"value": 1}, webhook={"url": receiver.url})
        receiver.wait_for(1)
        heir.resume()
        assert stopping.stop() == 0
        receiver.wait_for(2, timeout=5)
        assert [attempt["status_code"] for attempt in delivered(service, job_id)["attempts"]] == [204]


def test_a_worker_that_only_sends_delivers_what_another_ran(service: Service) -> None:
    service.start_workers(1, WORKER_ROLES="jobs")
    with Receiver() as receiver:
        job_id = service.client.submit("echo", {"value": 1}, webhook={"url": receiver.url})
        assert service.client.job(job_id, wait=30)["status"] == "succeeded"
        service.start_workers(1, WORKER_ROLES="webhooks")
        delivered(service, job_id)
