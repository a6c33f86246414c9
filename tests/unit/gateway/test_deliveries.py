"""What became of a job's webhooks, and sending one again."""

from __future__ import annotations

from shared.records import API
from tests.unit.gateway.conftest import Gateway, problem


async def _delivered(gateway: Gateway, outcome: str = "delivered") -> tuple[str, str]:
    job_id = await gateway.submit(webhook={"url": "https://example.com/h"})
    await gateway.worker.run()
    (delivery_id,) = await gateway.sender.send(outcome)
    return job_id, delivery_id


async def test_a_job_s_deliveries_are_shown_with_their_attempts(gateway: Gateway) -> None:
    job_id, delivery_id = await _delivered(gateway)
    answer = (await gateway.get(f"/jobs/{job_id}/deliveries")).json()
    (delivery,) = answer["items"]
    assert answer["next_cursor"] is None
    assert (delivery["id"], delivery["type"], delivery["status"]) == (delivery_id, "job.succeeded", "delivered")
    assert delivery["url"] == "https://example.com/h"
    assert (delivery["attempts"][0]["status_code"], delivery["attempts"][0]["duration_ms"]) == (204, 12)


async def test_deliveries_outlive_the_job(gateway: Gateway) -> None:
    job_id, _ = await _delivered(gateway)
    await gateway.http.delete(f"/api/v1/jobs/{job_id}")
    assert len((await gateway.get(f"/jobs/{job_id}/deliveries")).json()["items"]) == 1


async def test_a_job_without_a_webhook_has_none_and_a_job_that_is_not_there_is_not_found(gateway: Gateway) -> None:
    job_id = await gateway.submit()
    assert (await gateway.get(f"/jobs/{job_id}/deliveries")).json() == {"items": [], "next_cursor": None}
    problem(await gateway.get(f"/jobs/{'0' * 32}/deliveries"), 404, "job_not_found")


async def test_a_delivery_can_be_sent_again(gateway: Gateway) -> None:
    job_id, delivery_id = await _delivered(gateway, "failed")
    answer = await gateway.post(f"/jobs/{job_id}/deliveries/{delivery_id}/redeliver")
    links = {"self": f"{API}/deliveries/{delivery_id}"}
    assert (answer.status_code, answer.json()) == (202, {"id": delivery_id, "status": "pending", "links": links})
    assert (await gateway.http.get(links["self"])).json()["status"] == "pending"
    (claimed,) = await gateway.sender.claim()
    assert claimed.id == delivery_id
    again = await gateway.post(f"/jobs/{job_id}/deliveries/{delivery_id}/redeliver")
    problem(again, 409, "delivery_in_progress")


async def test_only_the_job_s_own_deliveries_can_be_sent_again(gateway: Gateway) -> None:
    job_id, delivery_id = await _delivered(gateway)
    other = await gateway.submit()
    for job, delivery in [(other, delivery_id), (job_id, "x"), (job_id, f"{job_id}_9_failed"), (job_id, "%00")]:
        answer = await gateway.post(f"/jobs/{job}/deliveries/{delivery}/redeliver")
        problem(answer, 404, "delivery_not_found")
