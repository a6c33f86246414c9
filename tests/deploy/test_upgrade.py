"""`upgrade.sh` on a machine at work: no request fails, no job is lost, and what does not work changes nothing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.machine import Machine
from tests.deploy.upgrading import (
    GATEWAY,
    WORKERS,
    Load,
    check,
    current,
    process_ids,
    releases,
    releases_that_serve,
    source,
    upgrade,
    upgrading,
    with_fewer_gateways,
    with_uv,
)

WORKER_DIES = {"worker/__main__.py": ("    await catalogue.describe()\n", "    raise RuntimeError('planted')\n")}
FUTURE = "from __future__ import annotations\n"
SETTING = "    redis_url: SecretStr"
STARTUP = "        await super().startup(sockets)\n"
# What is wrong with a release, and the words about it.
REFUSED = {
    "a gateway with a syntax error": ("gateway/main.py", FUTURE, f"{FUTURE}def (\n", "SyntaxError"),
    "a package that is not there": ("gateway/main.py", FUTURE, f"{FUTURE}import no_such_package\n", "no_such_package"),
    "a setting that it lacks here": ("shared/settings.py", SETTING, f"    new_one: int\n{SETTING}", "NEW_ONE is wrong"),
    "a gateway that does not come up": ("gateway/server.py", STARTUP, "        raise OSError('planted')\n", "planted"),
    "a worker without a package": ("worker/runner.py", FUTURE, f"{FUTURE}import no_such_package\n", "no_such_package"),
    "a graph that needs what is gone": ("worker/offline.py", FUTURE, f"{FUTURE}raise ImportError\n", "the graph needy"),
}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with Machine(DRAIN_SECONDS="1", GATEWAY_DRAIN_SECONDS="1") as machine:
        with_uv(machine)
        with_fewer_gateways(machine)
        machine.start()
        yield machine


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same code again."""
    return source(tmp_path_factory.mktemp("source") / "same")


def test_upgrades_and_rollbacks_under_load_also_killed_ones_fail_no_request_and_lose_no_job(
    machine: Machine, as_it_is: Path, tmp_path: Path
) -> None:
    before = current(machine)
    with Load(machine, tmp_path / "jobs") as load:
        # Its worst place: one worker has moved, and the other was stopped, and not started again.
        _kill_where("restarting multi-agent-worker:multi-agent-worker_01", upgrading(machine, "--source", as_it_is))
        machine.supervisorctl("stop", WORKERS[1])
        _is_put_right(machine, upgrade(machine, "--source", as_it_is))
        after = current(machine)
        assert (machine.app / "previous").resolve() == before != after

        _kill_where("reloading the gateway", upgrading(machine, "--rollback"))
        _is_put_right(machine, upgrade(machine, "--rollback"))
        assert current(machine) == after

        _, used = (machine.add_release(f"2025010100000{number}-0000000") for number in range(2))
        with subprocess.Popen(["sleep", "600"], cwd=used) as process:
            done = upgrade(machine, "--rollback", "--keep", "0")
            process.kill()
        assert done.returncode == 0, done.stdout
        assert "was interrupted" not in done.stdout
        assert releases(machine) == {before, after, used}
        assert (current(machine), (machine.app / "previous").resolve()) == (before, after)
        assert releases_that_serve(machine) == {before}
    check(load)
    assert [job for job in load.jobs if job.long and job.record["attempt"] > 1], "no job was handed over"
    assert len(load.jobs) > 100


def _kill_where(words: str, script: subprocess.Popen[str]) -> None:
    """SIGKILL to the script and all that it has started, once it says this."""
    assert script.stdout is not None
    said = []
    for line in script.stdout:
        said.append(line)
        if words in line:
            break
    else:
        pytest.fail("".join(said))
    os.killpg(script.pid, signal.SIGKILL)
    script.wait()
    script.stdout.close()


def _is_put_right(machine: Machine, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout
    assert "was interrupted" in done.stdout
    assert releases_that_serve(machine) == {current(machine)}
    assert not (machine.app / "upgrade.state").exists()
    machine.wait_until_up()


def test_a_release_that_does_not_start_is_refused_before_anything_changes(machine: Machine, tmp_path: Path) -> None:
    before, processes = current(machine), process_ids(machine)
    _add_graph(machine, "needy", "import worker.offline\nfrom graphs import two_nodes as graph\n")
    with Load(machine, tmp_path / "jobs", long=0) as load:
        for number, (name, (file, old, new, words)) in enumerate(REFUSED.items()):
            done = upgrade(machine, "--source", source(tmp_path / f"{number}", {file: (old, new)}))
            assert done.returncode == 1, (name, done.stdout)
            assert "nothing has changed" in done.stdout, (name, done.stdout)
            assert words in done.stdout, (name, done.stdout)
    check(load)
    assert current(machine) == before
    assert process_ids(machine) == processes


def _add_graph(machine: Machine, name: str, code: str) -> None:
    config = machine.app / "graphs" / "langgraph.json"
    (config.parent / f"{name}.py").write_text(code)
    content = json.loads(config.read_text())
    content["graphs"][name] = f"./{name}.py:graph"
    config.write_text(json.dumps(content))


def test_a_release_whose_workers_die_is_taken_back(machine: Machine, tmp_path: Path) -> None:
    before = current(machine)
    with Load(machine, tmp_path / "jobs") as load:
        done = upgrade(machine, "--source", source(tmp_path / "dying", WORKER_DIES))
    assert done.returncode == 1, done.stdout
    assert f"FAILED: {before.name} serves as before" in done.stdout
    assert releases_that_serve(machine) == {before} == {current(machine)}
    check(load)
    assert machine.health()["status"] == "ok"


def test_only_one_upgrade_runs_at_a_time(machine: Machine) -> None:
    with (machine.app / "upgrade.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = upgrade(machine, "--rollback")
    assert (done.returncode, "another upgrade is running" in done.stdout) == (1, True)


def test_a_dry_run_changes_nothing(machine: Machine, as_it_is: Path) -> None:
    before = (process_ids(machine), releases(machine), current(machine))
    done = upgrade(machine, "--source", as_it_is, "--dry-run")
    assert done.returncode == 0, done.stdout
    assert all(name in done.stdout for name in (GATEWAY, *WORKERS))
    assert (process_ids(machine), releases(machine), current(machine)) == before


@pytest.mark.parametrize("arguments", [[], ["--source"], ["--rollback", "--source", "x"], ["--keep", "x"], ["--what"]])
def test_a_wrong_call_is_status_2(machine: Machine, arguments: list[str]) -> None:
    assert upgrade(machine, *arguments).returncode == 2
