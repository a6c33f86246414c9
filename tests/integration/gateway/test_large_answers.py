"""Large outputs, many asked for at once: in bounded memory, while others are served."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.integration.gateway.test_unread_answers import end_a_job
from tests.memory import MB, Memory
from tests.servers import Processes, fetch

ANSWER_MB = 9
CLIENTS = 60


def test_many_large_outputs_are_read_in_turn_and_others_are_served(processes: Processes, redis_url: str) -> None:
    output = b'"%s"' % (b"x" * ANSWER_MB * MB)
    job_id = end_a_job(redis_url, output)
    gateway = processes.gateway(redis_url).ready()

    def ask(_: int) -> tuple[int, int]:
        answer = httpx.get(f"{gateway.api}/jobs/{job_id}", timeout=60, trust_env=False)
        return answer.status_code, len(answer.content)

    took = []
    with Memory(gateway.process.pid) as memory, ThreadPoolExecutor(CLIENTS) as clients:
        answers = [clients.submit(ask, number) for number in range(CLIENTS)]
        while not all(answer.done() for answer in answers):
            started = time.monotonic()
            assert fetch(f"{gateway.api}/health/ready")[0] == 200
            took.append(time.monotonic() - started)
        statuses = [answer.result()[0] for answer in answers]
    assert max(took) < 5
    assert statuses.count(200) >= CLIENTS * 0.8
    assert {size > len(output) for status, size in (answer.result() for answer in answers) if status == 200} == {True}
    # 64 MB at once in three forms, and 128 MB that busy clients have not read; without the turns it is more than 1,000.
    assert memory.peak - memory.before < 500


def test_an_output_is_the_same_whether_it_is_large_or_small(processes: Processes, redis_url: str) -> None:
    gateway = processes.gateway(redis_url).ready()
    for size in (65_534, 65_535, 65_536, 65_537, 200_000):
        output = b'"%s"' % (b"x" * (size - 2))
        job_id = end_a_job(redis_url, output, job_id=f"{size:032x}")
        for path in (f"/jobs/{job_id}", f"/jobs/{job_id}?wait=5"):
            answer = httpx.get(gateway.api + path, trust_env=False)
            assert (answer.status_code, answer.json()["output"]) == (200, "x" * (size - 2))
            assert answer.headers["content-type"] == "application/json"
            assert int(answer.headers["content-length"]) == len(answer.content)
