"""Clients as careful users write them: each job has an `Idempotency-Key`, and is sent until a gateway accepts it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from tests.chaos.load import Planned

ACCEPTED = 202
AWAY = 503
NO_ANSWER = 0
AGAIN_SECONDS = (0.1, 0.5)


@dataclass(frozen=True)
class Answer:
    """What one send of a job came to: a 202 names the job, and says whether an earlier send had been accepted."""

    key: str
    status: int
    job: str = ""
    replayed: bool = False
    says: str = ""  # what a 503 asks for, or why there was no answer


class Clients:
    """Send jobs to `gateways` (base addresses of the API). Threads share it."""

    def __init__(self, gateways: Sequence[str], deadline: float) -> None:
        self.http = [httpx.Client(base_url=api, timeout=10, trust_env=False) for api in gateways]
        self.deadline = deadline  # monotonic
        self.answers: list[Answer] = []
        self.stopped = threading.Event()
        self._hedges = ThreadPoolExecutor(2 * len(gateways))

    def submit(self, plan: Planned, request: dict[str, Any], random: Random, *, hedged: bool) -> str:
        """The id of the accepted job. `hedged`: sent to all gateways at once, as a client without patience does."""
        if not hedged:
            return self._send_until_accepted(plan.name, request, random.randrange(len(self.http)), random.random())
        sends = [
            self._hedges.submit(self._send_until_accepted, plan.name, request, gateway, random.random())
            for gateway in range(len(self.http))
        ]
        ids = [send.result() for send in sends]
        return ids[0]  # whether it is one job, `answers` tell

    def submit_all(
        self, plans: Sequence[tuple[float, Planned]], submit: Callable[[Planned], str]
    ) -> dict[str, Planned]:
        """One client: each job in its turn, when it is time (monotonic) and the one before is accepted. By job id."""
        accepted: dict[str, Planned] = {}
        for at, plan in plans:
            self.stopped.wait(max(0.0, at - time.monotonic()))
            accepted[submit(plan)] = plan
        return accepted

    def figures(self) -> dict[str, Any]:
        """How often jobs were sent, and what was answered."""
        sends = Counter(answer.key for answer in self.answers)
        return {
            "submits": len(self.answers),
            "submits_answered_202": sum(answer.status == ACCEPTED for answer in self.answers),
            "of_those_known_from_an_earlier_submit": sum(answer.replayed for answer in self.answers),
            "submits_answered_503": sum(answer.status == AWAY for answer in self.answers),
            "submits_not_answered": dict(Counter(one.says for one in self.answers if one.status == NO_ANSWER)),
            "jobs_sent_more_than_once": sum(count > 1 for count in sends.values()),
            "most_sends_of_a_job": max(sends.values()),
        }

    def close(self) -> None:
        self._hedges.shutdown()
        for client in self.http:
            client.close()

    def _send_until_accepted(self, key: str, request: dict[str, Any], gateway: int, seed: float) -> str:
        random = Random(seed)
        while True:
            assert not self.stopped.is_set(), "the run is over"
            answer = self._send(key, request, self.http[gateway])
            self.answers.append(answer)
            if answer.status == ACCEPTED:
                return answer.job
            assert answer.status in {AWAY, NO_ANSWER}, answer
            assert answer.status != AWAY or int(answer.says) > 0, "a 503 says when to come again"
            assert time.monotonic() < self.deadline, f"{key} is not accepted: {answer}"
            gateway = (gateway + 1) % len(self.http)
            time.sleep(random.uniform(*AGAIN_SECONDS))

    @staticmethod
    def _send(key: str, request: dict[str, Any], http: httpx.Client) -> Answer:
        try:
            response = http.post("/jobs", json=request, headers={"Idempotency-Key": key})
        except httpx.TransportError as error:
            return Answer(key, NO_ANSWER, says=type(error).__name__)
        if response.status_code != ACCEPTED:
            says = response.headers.get("retry-after", "0") if response.status_code == AWAY else response.text
            return Answer(key, response.status_code, says=says)
        replayed = response.headers.get("idempotent-replayed") == "true"
        return Answer(key, ACCEPTED, response.json()["id"], replayed)
