"""What the capacity calculation must hold for any load."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import capacity
from bench.capacity_model import Load, needed, provider_rate, sparse
from bench.capacity_queue import simulate

LOADS = st.builds(
    Load,
    jobs_per_second=st.floats(0.01, 1000),
    seconds_per_job=st.floats(0, 600),
    cpu_ms_per_job=st.floats(0, 1000),
    steps=st.integers(1, 50),
    input_bytes=st.integers(0, 100_000),
    output_bytes=st.integers(0, 100_000),
    webhooks=st.floats(0, 1),
    threads=st.floats(0, 1),
    tokens=st.floats(0, 50_000),
    provider_rpm=st.sampled_from([0.0, 60.0, 10_000.0]),
    provider_tpm=st.sampled_from([0.0, 100_000.0, 10_000_000.0]),
    concurrency=st.integers(1, 200),
)
GROWS = ("jobs_per_second", "seconds_per_job", "cpu_ms_per_job")
NEEDS = ("slots", "processes", "running", "worker_cores", "redis_cores", "redis_calls", "worker_bytes", "redis_bytes")


@given(load=LOADS, name=st.sampled_from(GROWS), factor=st.floats(1, 10))
def test_more_load_never_needs_less(load: Load, name: str, factor: float) -> None:
    less, more = needed(load), needed(replace(load, **{name: getattr(load, name) * factor}))
    for need in NEEDS:
        assert getattr(more, need) >= getattr(less, need) * (1 - 1e-9), need


@given(load=LOADS, steps=st.integers(0, 50))
def test_more_steps_and_longer_retention_never_need_less(load: Load, steps: int) -> None:
    more = needed(replace(load, steps=load.steps + steps, ttl_seconds=load.ttl_seconds * 2))
    for need in NEEDS:
        assert getattr(more, need) >= getattr(needed(load), need) * (1 - 1e-9), need


@given(load=LOADS)
def test_the_workers_it_names_are_enough(load: Load) -> None:
    answer = needed(load)
    assert answer.utilisation["workers' slots"] <= 0.8 + 1e-9
    assert answer.utilisation["workers' processes"] <= 0.7 + 1e-9


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


@given(one=st.floats(0, 3), other=st.floats(0, 3))
def test_a_busier_process_takes_more_of_its_core(one: float, other: float) -> None:
    assert (sparse(one) <= sparse(other)) == (one <= other)
    assert sparse(1) == 1


def test_requests_and_tokens_each_limit_what_is_fed() -> None:
    load = Load(10, 1, tokens=3000, calls=2, provider_rpm=600, provider_tpm=360_000)
    assert provider_rate(load) == 2  # by tokens; by requests 5
    assert provider_rate(replace(load, provider_tpm=0)) == 5
    assert math.isinf(provider_rate(Load(10, 1)))


@settings(max_examples=20, deadline=None)
@given(slots=st.integers(12, 40))
def test_more_slots_never_wait_longer(slots: int) -> None:
    def wait(count: int) -> float:
        return simulate(rate=10, seconds=1, cpu=0.001, slots=count, processes=2, jobs=3000).p95

    assert wait(slots + 5) <= wait(slots)


def test_the_simulation_agrees_with_what_is_known_of_one_server() -> None:
    """M/M/1 at 0.8: 1 - 0.8 exp(-0.2 t) of the jobs wait at most t mean services."""
    found = simulate(rate=0.8, seconds=1, cpu=0, slots=1, processes=1, jobs=300_000)
    assert found.p95 == pytest.approx(math.log(0.8 / 0.05) / 0.2, rel=0.1)


def test_a_burst_drains_as_fast_as_the_slots_allow() -> None:
    found = simulate(rate=0.001, seconds=2, cpu=0, slots=10, processes=1, burst=100, jobs=1, spread=False)
    assert found.drained == pytest.approx(18)  # ten rounds, the last one begins after nine


def test_a_burst_starts_no_faster_than_the_provider_lets_it() -> None:
    found = simulate(rate=0.001, seconds=1, cpu=0, slots=1000, processes=1, provider=5, burst=101, jobs=1)
    assert found.drained == pytest.approx(20)


def test_the_command_says_what_is_full_first(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--jobs-per-second", "20", "--seconds-per-job", "8", "--tokens", "3000", "--provider-tpm", "600000"]
    assert capacity.main(asked) == 0
    printed = capsys.readouterr().out
    assert "bottleneck: provider" in printed
    assert "grows without end" in printed


@pytest.mark.parametrize("wrong", [["--jobs-per-second", "0"], ["--threads", "2"], ["--steps", "0"]])
def test_a_wrong_number_is_a_wrong_call(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        capacity.main(wrong)
    assert ended.value.code == 2
