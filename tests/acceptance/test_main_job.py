"""The main job on real processes: submitted over HTTP, run in a worker, answered by polling, waiting and webhook."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

from standardwebhooks import Webhook

from shared.signing import default_secret
from tests.acceptance.conftest import Service
from tests.receivers import Receiver, Reply
from tests.servers import SECRET_KEY, wait_until

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


def test_a_job_is_answered_by_polling(service: Service) -> None:
    service.start_workers()
    job_id = service.client.submit("two_nodes", HELLO)
    ended = wait_until(lambda: (job := service.client.job(job_id))["status"] == "succeeded" and job)
    assert [message["content"] for message in ended["output"]["messages"]] == ["hi", "first", "second"]
    assert (ended["attempt"], ended["tries"], ended["round"], ended["error"]) == (1, 1, 1, None)


def test_a_job_is_answered_by_waiting(service: Service) -> None:
    service.start_workers()
    job_id = service.client.submit("sleeper", {"seconds": 1})
    started = time.monotonic()
    ended = service.client.job(job_id, wait=30)
    assert ended["status"] == "succeeded"
    assert time.monotonic() - started < 10


def test_a_job_is_answered_by_a_signed_webhook_that_the_public_library_verifies(service: Service) -> None:
    service.start_workers()
    with Receiver() as receiver:
        job_id = service.client.submit("echo", {"value": 1}, webhook={"url": receiver.url})
        request = receiver.wait_for(1)[0]
    message = Webhook(default_secret(SECRET_KEY, "default")).verify(request.body, request.headers)
    assert message["type"] == "job.succeeded"
    assert message["data"]["id"] == job_id
    assert message["data"]["output"] == {"value": 1}
    assert "input" not in message["data"]
    delivery = wait_until(
        lambda: next((one for one in _deliveries(service, job_id) if one["status"] == "delivered"), None)
    )
    assert request.headers["webhook-id"] == delivery["id"]
    assert [attempt["status_code"] for attempt in delivery["attempts"]] == [204]


def test_the_receiver_s_failures_are_on_record_and_a_delivery_can_be_sent_again(service: Service) -> None:
    service.start_workers()
    with Receiver() as receiver:
        receiver.reply(Reply(410, body=b"gone for good"))
        job_id = service.client.submit("faulty", {"message": "no"}, webhook={"url": receiver.url})
        failed = wait_until(
            lambda: next((one for one in _deliveries(service, job_id) if one["status"] == "failed"), None)
        )
        assert failed["type"] == "job.failed"
        assert (failed["attempts"][0]["status_code"], failed["attempts"][0]["body"]) == (410, "gone for good")
        again = service.client.http.post(f"/jobs/{job_id}/deliveries/{failed['id']}/redeliver")
        assert again.status_code == 202
        first, second = receiver.wait_for(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body


def test_a_thousand_jobs_over_32_connections_on_two_workers_each_run_once(service: Service, lines: Path) -> None:
    service.start_workers(2)
    ids = service.client.submit_all("two_counted", [{"file": str(lines)}] * 1000)
    jobs = service.client.wait_all(ids)
    assert {job["status"] for job in jobs} == {"succeeded"}
    assert {(job["attempt"], job["tries"]) for job in jobs} == {(1, 1)}
    runs = lines.read_text().splitlines()
    assert len(runs) == 1000
    assert len(set(runs)) == 2, "both workers took part"


def test_a_killed_worker_s_jobs_all_succeed_within_a_lease_and_a_second_and_their_own_time(
    service: Service, lines: Path
) -> None:
    lease, own = 2.0, 2.0
    doomed, _ = service.start_workers(2, LEASE_SECONDS=str(lease))
    ids = [service.client.submit("counted", {"file": str(lines), "seconds": own}) for _ in range(20)]
    wait_until(lambda: len(lines.read_text().splitlines()) == 20, what="all 20 run")
    doomed.kill()
    killed_at = time.time()
    jobs = service.client.wait_all(ids)
    assert {job["status"] for job in jobs} == {"succeeded"}
    again = [job for job in jobs if job["attempt"] == 2]
    assert len(again) == 10
    # The survivor has ten slots: they are free when its own ten jobs end, before the lost leases do.
    last = max(datetime.fromisoformat(job["finished_at"]).timestamp() for job in jobs)
    assert last - killed_at <= lease + 1 + own + 1
    assert len(lines.read_text().splitlines()) == 30


def test_a_terminated_worker_hands_its_jobs_back_at_once_and_exits_with_0(service: Service, lines: Path) -> None:
    (stopping,) = service.start_workers(1, LEASE_SECONDS="30")
    ids = [service.client.submit("counted", {"file": str(lines), "seconds": 3600}) for _ in range(5)]
    wait_until(lambda: len(lines.read_text().splitlines()) == 5, what="all 5 run")
    assert stopping.stop(within=5) == 0
    jobs = [service.client.job(job_id) for job_id in ids]
    assert {(job["status"], job["tries"]) for job in jobs} == {("queued", 0)}
    assert service.live_workers() == []
    service.start_workers(1)
    wait_until(lambda: len(lines.read_text().splitlines()) == 10, what="another worker runs them")
    jobs = [service.client.job(job_id) for job_id in ids]
    assert {(job["status"], job["attempt"], job["tries"]) for job in jobs} == {("running", 2, 1)}
    for job_id in ids:
        assert service.client.http.post(f"/jobs/{job_id}/cancel").status_code == 202
    assert {job["status"] for job in service.client.wait_all(ids)} == {"cancelled"}


def test_a_dead_worker_vanishes_from_the_list_within_seconds(service: Service) -> None:
    (worker,) = service.start_workers(1)
    assert [one["pid"] for one in service.live_workers()] == [worker.pid]
    worker.kill()
    wait_until(lambda: service.live_workers() == [], 8, what="the worker is gone from the list")


def test_a_thread_remembers_on_sqlite(service: Service) -> None:
    service.start_workers()
    _remembers(service)


def test_a_thread_remembers_on_postgresql_across_workers(service: Service, postgres_url: str) -> None:
    service.start_workers(2, DATABASE_URL=postgres_url)
    _remembers(service)


def test_a_broken_graph_file_stops_nothing_and_is_told(service: Service) -> None:
    service.start_workers()
    graphs = {graph["id"]: graph for graph in service.client.http.get("/graphs").json()["items"]}
    assert graphs["broken"]["error"] == {"type": "RuntimeError", "message": "this file cannot be imported"}
    assert graphs["two_nodes"]["error"] is None
    refused = service.client.http.post("/jobs", json={"graph": "broken", "input": {}})
    assert (refused.status_code, refused.json()["code"]) == (422, "graph_failed_to_load")


def test_every_way_to_make_a_graph_is_served(service: Service) -> None:
    service.start_workers()
    config = {"configurable": {"who": "me"}}
    told = {
        graph: service.client.run(graph, {}, config=config)["output"]["told"]
        for graph in ("sync_factory", "async_factory", "context_factory")
    }
    assert told == {"sync_factory": "sync", "async_factory": "async me", "context_factory": "context me"}


def test_metrics_of_the_gateway_and_a_worker_tell_what_happened(lone_service: Service) -> None:
    from tests.servers import fetch, free_port

    port = free_port()
    lone_service.start_workers(1, WORKER_METRICS_PORT=str(port))
    lone_service.client.run("echo", {"value": 1})
    gateway = fetch(f"{lone_service.gateway.url}/metrics")[1].decode()
    assert 'mas_jobs_submitted_total{graph="echo"} 1.0' in gateway
    assert 'mas_queue_depth{queue="default"} 0.0' in gateway
    worker = fetch(f"http://127.0.0.1:{port}/metrics")[1].decode()
    assert 'mas_jobs_ended_total{graph="echo",status="succeeded"} 1.0' in worker


def test_jobs_end_with_json_as_it_was_given(service: Service) -> None:
    service.start_workers()
    value = {"text": "é 你好 😀 \u2028", "list": [[], {}, None, True], "large": 2**63, "small": -(2**63), "float": 0.1}
    assert service.client.run("echo", {"value": value})["output"] == {"value": value}
    assert json.loads(json.dumps(value)) == value


def _remembers(service: Service) -> None:
    thread = f"a thread {datetime.now(UTC):%H%M%S%f} *"
    first = service.client.run("two_nodes", {"messages": ["one"]}, thread_id=thread)
    second = service.client.run("two_nodes", {"messages": ["two"]}, thread_id=thread)
    assert first["status"] == second["status"] == "succeeded", (first, second)
    contents = [message["content"] for message in second["output"]["messages"]]
    assert contents == ["one", "first", "second", "two", "first", "second"]


def _deliveries(service: Service, job_id: str) -> list[dict]:
    return list(service.client.http.get(f"/jobs/{job_id}/deliveries").json()["items"])
