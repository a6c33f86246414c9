"""Make records of all kinds by the API of a running service, and note what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.deploy.old_records.services import RECEIVER_ADDRESS, RECEIVER_PORT, Service, receiver
from tests.servers import wait_until

TENANT = "acme"
ENDED = {"succeeded", "failed", "cancelled", "interrupted"}
HOOK = f"http://{RECEIVER_ADDRESS}:{RECEIVER_PORT}"
TALK = "customer-17"
LOST_TALK = "customer-18"
ASKED_TALK = "customer-19"
LIMITS = {"max_running": 50, "max_waiting": 500, "requests_per_minute": None}
RUN_AT = "2026-12-24T18:00:00Z"


def make(service: Service) -> dict[str, Any]:
    """Leave jobs of every kind behind, with all workers killed. Gives what `reading` compares with."""
    keys: dict[str, str] = {}
    if service.auth:
        keys = {"good": service.new_api_key(TENANT), "revoked": service.new_api_key(TENANT)}
    service.start_gateway()
    if service.auth:
        service.revoke_api_key(keys["revoked"])
    service.use_api_key(keys.get("good", ""))
    service.start_worker()
    _graphs_are_known(service)

    with receiver():
        jobs = _ended(service)
    service.stop_workers()  # and with them connections that are kept open to who listens no more
    service.start_worker()
    jobs |= _interrupted(service) | _under_way(service)
    endpoint = service.ask("POST", "/webhooks", 201, json={"url": f"{HOOK}/endpoint", "events": ["job.cancelled"]})
    jobs |= _deliveries_that_wait(service)
    if service.auth:
        service.ask("PUT", f"/tenants/{TENANT}/limits", json=LIMITS)
    service.kill_workers()
    jobs |= _waiting(service)
    assert all(deliveries(service, jobs[name])[0]["status"] == "pending" for name in ("unheard", "unheard_cancel"))
    return {
        "keys": keys,
        "endpoint": endpoint,
        "jobs": {name: service.job(job_id) for name, job_id in jobs.items()},
        "deliveries": {name: deliveries(service, job_id) for name, job_id in jobs.items()},
        "limits": LIMITS if service.auth else None,
    }


def _graphs_are_known(service: Service) -> None:
    wait_until(lambda: any(w["graphs"] for w in service.ask("GET", "/workers")["items"]), what="a worker serves")


def _run(service: Service, graph: str, value: Any, **fields: Any) -> str:
    job_id = service.submit(graph, value, **fields)
    wait_until(lambda: service.job(job_id, 10)["status"] in ENDED, what=f"{graph} has ended")
    return job_id


def _ended(service: Service) -> dict[str, str]:
    jobs = {
        "succeeded": _run(service, "two_nodes", {"messages": ["hello"]}, webhook={"url": f"{HOOK}/succeeded"}),
        "failed": _run(service, "traced", _traced("failed", fail={"second": {"error": "final"}})),
        "failed_in_thread": _run(
            service, "traced", _traced("failed-in-thread", fail={"second": {"error": "final"}}), thread_id="failing"
        ),
        "cancelled": service.submit("sleeper", {"seconds": 600}, metadata={"who": "somebody"}),
        "talk_1": _run(service, "two_nodes", {"messages": ["one"]}, thread_id=TALK),
        "talk_2": _run(service, "two_nodes", {"messages": ["two"]}, thread_id=TALK),
    }
    service.ask("POST", f"/jobs/{jobs['cancelled']}/cancel", 202)
    wait_until(lambda: service.job(jobs["cancelled"])["status"] == "cancelled", what="it is cancelled")
    wait_until(lambda: deliveries(service, jobs["succeeded"])[0]["status"] == "delivered", what="it is delivered")
    return jobs


def _interrupted(service: Service) -> dict[str, str]:
    return {
        "interrupted": _run(service, "traced_asking", _traced("interrupted")),
        "interrupted_in_thread": _run(service, "traced_asking", _traced("interrupted-in-thread"), thread_id=ASKED_TALK),
    }


def _under_way(service: Service) -> dict[str, str]:
    """Jobs in their second step, and one whose first try has failed: their worker will be killed."""
    busy = {"error": "429", "retry_after": 20}
    jobs = {
        "lost": service.submit("traced", _traced("lost", hold=["second"])),
        "lost_in_thread": service.submit("traced", _traced("lost-in-thread", hold=["second"]), thread_id=LOST_TALK),
        "backoff": service.submit("traced", _traced("backoff", fail={"second": busy})),
    }
    for name in ("lost", "lost-in-thread", "backoff"):
        wait_until(lambda name=name: "second" in _trace(service, name), what=f"{name} is in its second step")
    wait_until(lambda: service.job(jobs["backoff"])["status"] == "queued", what="the other waits for its next try")
    jobs["parked"] = service.submit("traced", _traced("parked", hold=[]), thread_id=LOST_TALK)
    return jobs


def _deliveries_that_wait(service: Service) -> dict[str, str]:
    """Ends that nobody is there to hear of: one for a job's own URL, and one more for an endpoint."""
    jobs = {
        "unheard": _run(service, "two_nodes", {"messages": ["hello"]}, webhook={"url": f"{HOOK}/unheard"}),
        "unheard_cancel": service.submit("sleeper", {"seconds": 600}),
    }
    service.ask("POST", f"/jobs/{jobs['unheard_cancel']}/cancel", 202)
    for job_id in jobs.values():
        wait_until(
            lambda job_id=job_id: any(one["attempts"] for one in deliveries(service, job_id)),
            what="a delivery was tried in vain",
        )
    return jobs


def _waiting(service: Service) -> dict[str, str]:
    return {
        "first": service.submit("traced", _traced("first"), context=None, metadata={"n": 1}),
        "urgent": service.submit("traced", _traced("urgent"), priority=9),
        "in_thread": service.submit("two_nodes", {"messages": ["three"]}, thread_id=TALK),
        "delayed": service.submit("traced", _traced("delayed"), delay_seconds=5, webhook={"url": f"{HOOK}/delayed"}),
        "christmas": service.submit("traced", _traced("christmas"), run_at=RUN_AT),
    }


def _traced(name: str, **how: Any) -> dict[str, Any]:
    return {"file": f"{name}.trace", **how}


def _trace(service: Service, name: str) -> list[str]:
    return steps(service.files / f"{name}.trace")


def steps(file: Path) -> list[str]:
    """The steps that were started, in their order."""
    return [line.split()[0] for line in file.read_text().splitlines()] if file.exists() else []


def deliveries(service: Service, job_id: str) -> list[dict[str, Any]]:
    return list(service.ask("GET", f"/jobs/{job_id}/deliveries")["items"])
