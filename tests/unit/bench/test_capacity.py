"""What the capacity calculation must hold for any load."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import capacity
from bench.capacity_model import (
    Load,
    arrivals,
    job_cpu,
    needed,
    p95,
    provider_rate,
    simulate,
    slot_seconds,
    stretch,
    waiting,
)

LOADS = st.builds(
    Load,
    jobs_per_second=st.floats(0.01, 1000),
    seconds_per_job=st.floats(0, 600),
    cpu_ms_per_job=st.floats(0, 1000),
    steps=st.integers(1, 50),
    payload_bytes=st.integers(0, 100_000),
    threads=st.floats(0, 1),
    tokens=st.floats(0, 50_000),
    provider_rpm=st.sampled_from([0.0, 60.0, 10_000.0]),
    provider_tpm=st.sampled_from([0.0, 100_000.0, 10_000_000.0]),
    concurrency=st.integers(1, 200),
)
GROWS = ("jobs_per_second", "seconds_per_job", "cpu_ms_per_job", "steps", "ttl_seconds", "payload_bytes")
NEEDS = ("slots", "processes", "running", "cores", "redis_calls", "worker_bytes", "redis_bytes", "gateway_processes")


@given(load=LOADS, name=st.sampled_from(GROWS), factor=st.integers(1, 10))
def test_more_load_never_needs_less(load: Load, name: str, factor: int) -> None:
    less, more = needed(load), needed(replace(load, **{name: getattr(load, name) * factor}))
    for need in NEEDS:
        assert getattr(more, need) >= getattr(less, need) * (1 - 1e-9), need
    for part in ("workers", "gateway", "redis"):
        for before, after in zip(getattr(less, part), getattr(more, part), strict=True):
            assert after >= before * (1 - 1e-9), part


@given(load=LOADS)
def test_the_workers_and_cores_it_names_are_enough(load: Load) -> None:
    answer = needed(load)
    assert answer.utilisation["workers' slots"] <= 0.8 + 1e-9
    assert answer.utilisation["workers' processes"] <= 0.7 + 1e-9
    assert answer.workers[1] + answer.gateway[1] <= 0.7 * answer.cores + 1e-9


@given(load=LOADS)
def test_jobs_that_come_alone_never_cost_less_than_those_that_coincide(load: Load) -> None:
    answer = needed(load)
    for coinciding, alone in (answer.workers, answer.gateway, answer.redis, answer.total):
        assert 0 < coinciding <= alone


@given(load=LOADS, cores=st.integers(1, 64))
def test_more_cores_never_hold_a_job_longer(load: Load, cores: int) -> None:
    fewer, more = replace(load, cores=cores), replace(load, cores=cores + 1)
    assert 1 <= stretch(needed(more)) <= stretch(needed(fewer))
    assert slot_seconds(more) <= slot_seconds(fewer)


@given(load=LOADS, factor=st.floats(1, 10))
def test_a_higher_limit_of_the_provider_never_feeds_fewer(load: Load, factor: float) -> None:
    more = replace(load, provider_rpm=load.provider_rpm * factor, provider_tpm=load.provider_tpm * factor)
    assert provider_rate(more) >= provider_rate(load)
    assert needed(more).processes >= needed(load).processes


@given(load=LOADS)
def test_a_load_above_the_providers_limit_is_sized_by_the_limit(load: Load) -> None:
    answer = needed(load)
    if load.jobs_per_second > answer.fed:
        assert answer.utilisation["provider"] > 1
        assert answer.processes == needed(replace(load, jobs_per_second=answer.fed)).processes


@settings(max_examples=30, deadline=None)
@given(
    load=st.builds(Load, st.floats(0.1, 100), st.floats(0, 5), st.floats(0, 200), concurrency=st.integers(1, 50)),
    burst=st.integers(1, 100),
)
def test_what_it_names_never_lets_a_queue_grow(load: Load, burst: int) -> None:
    answer = needed(load)
    assert stretch(answer) <= 1 / 0.3 + 1e-6
    waits = waiting(load, arrivals(load.jobs_per_second, 4000))
    slower = slot_seconds(load) + job_cpu(load)[0]
    assert p95(waits[2000:]) <= 20 * slower
    assert max(waiting(load, [0.0] * burst)) <= burst * slower


def test_requests_and_tokens_each_limit_what_is_fed() -> None:
    load = Load(10, 1, tokens=3000, calls=2, provider_rpm=600, provider_tpm=360_000)
    assert provider_rate(load) == 2  # by tokens; by requests 5
    assert provider_rate(replace(load, provider_tpm=0)) == 5
    assert math.isinf(provider_rate(Load(10, 1)))


@settings(max_examples=20, deadline=None)
@given(slots=st.integers(5, 40), seed=st.integers(0, 1000))
def test_more_slots_never_wait_longer(slots: int, seed: int) -> None:
    times = arrivals(10, 1000, seed)
    fewer, more = (simulate(times, seconds=1, cpu=0.001, slots=count, processes=2) for count in (slots, slots + 1))
    assert all(less <= longer + 1e-9 for less, longer in zip(more, fewer, strict=True))


def test_the_simulation_agrees_with_what_is_known_of_one_server() -> None:
    """M/D/1 at 0.8: a job waits 0.8 / (2 * 0.2) of a service, on average."""
    waits = simulate(arrivals(0.8, 300_000), seconds=1, cpu=0, slots=1, processes=1)
    assert fmean(waits) == pytest.approx(2, rel=0.05)


def test_a_burst_drains_as_fast_as_the_slots_allow() -> None:
    waits = simulate([0.0] * 100, seconds=2, cpu=0, slots=10, processes=1)
    assert max(waits) == pytest.approx(18)  # ten rounds, the last one begins after nine


def test_a_burst_starts_no_faster_than_the_provider_lets_it() -> None:
    waits = simulate([0.0] * 101, seconds=1, cpu=0, slots=1000, processes=1, provider=5)
    assert max(waits) == pytest.approx(20)


def test_jobs_that_compute_wait_for_a_process() -> None:
    waits = simulate([0.0] * 10, seconds=0, cpu=1, slots=100, processes=2)
    assert max(waits) == pytest.approx(4)


def test_the_command_says_what_is_full_first(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--jobs-per-second", "20", "--seconds-per-job", "8", "--tokens", "3000", "--provider-tpm", "600000"]
    assert capacity.main(asked) == 0
    printed = capsys.readouterr().out
    assert "bottleneck: provider" in printed
    assert "grows without end" in printed


NUMBERS = [option for option in capacity.parser()._option_string_actions if option not in ("-h", "--help", "--check")]


@pytest.mark.parametrize("option", NUMBERS)
@pytest.mark.parametrize("wrong", ["-1", "nan", "inf", "many", "", "1e300"])
def test_a_wrong_number_is_a_wrong_call(option: str, wrong: str) -> None:
    with pytest.raises(SystemExit) as ended:
        capacity.main([f"{option}={wrong}"])
    assert ended.value.code == 2


@pytest.mark.parametrize("option", ["--jobs-per-second", "--steps", "--concurrency"])
def test_nought_is_wrong_where_nothing_would_run(option: str) -> None:
    with pytest.raises(SystemExit) as ended:
        capacity.main([option, "0"])
    assert ended.value.code == 2


@pytest.mark.parametrize("value", ["0", "1"])
@pytest.mark.parametrize("option", NUMBERS)
def test_every_other_number_is_answered(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    if value == "1" or option not in ("--jobs-per-second", "--steps", "--concurrency"):
        assert capacity.main([option, value]) == 0
        assert "bottleneck: " in capsys.readouterr().out


def test_the_largest_numbers_are_answered_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    assert capacity.main(["--jobs-per-second", "1e9", "--seconds-per-job", "1000", "--burst", "1000000000"]) == 0
    assert time.monotonic() - started < 5
    assert "a job waits" in capsys.readouterr().out


def test_a_wait_that_is_not_known_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    """200 jobs/s that do nothing fill two cores, unless they coincide."""
    asked = ["--jobs-per-second", "200", "--seconds-per-job", "0", "--processes", "2", "--polls", "0"]
    assert capacity.main([*asked, "--cores", "2"]) == 0
    assert "not predicted" in capsys.readouterr().out
    assert capacity.main(asked) == 0
    assert "(simulated)" in capsys.readouterr().out
