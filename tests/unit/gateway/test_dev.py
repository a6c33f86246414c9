"""What `--dev` makes ready before it starts anything."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import dev
from gateway.dev import check_port, dev_environment, end_orphans, lock_data_dir, own_secret_key
from shared.settings import Settings, SettingsError, load_settings
from tests.servers import is_alive

REDIS_URL = "redis://127.0.0.1:7000/0"


def environment(data_dir: Path, host: str = "127.0.0.1") -> dict[str, str]:
    return dev_environment(load_settings(data_dir=data_dir, auth_required=True), host, REDIS_URL)


def test_the_processes_are_open_to_this_machine_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert (settings.host, settings.auth_required, settings.gateway_workers) == ("127.0.0.1", False, 1)
    assert settings.require_redis_url() == REDIS_URL
    assert settings.log_format == "console"
    assert settings.drain_seconds == 1


def test_webhooks_may_go_to_this_machine_besides_what_was_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEBHOOK_ALLOW_NETWORKS", "10.0.0.0/8,::1/128")
    assert environment(tmp_path)["WEBHOOK_ALLOW_NETWORKS"] == "10.0.0.0/8,::1/128,127.0.0.0/8"


def test_a_log_format_and_a_drain_that_were_set_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("DRAIN_SECONDS", "30")
    assert not {"LOG_FORMAT", "DRAIN_SECONDS"} & environment(tmp_path).keys()


def test_the_secret_key_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    key = own_secret_key(tmp_path)
    assert own_secret_key(tmp_path) == key == environment(tmp_path)["SECRET_KEY"]
    assert stat.S_IMODE((tmp_path / "secret_key").stat().st_mode) == 0o600
    assert len(key) >= 32
    assert own_secret_key_of(tmp_path / "other") != key


def own_secret_key_of(data_dir: Path) -> str:
    data_dir.mkdir()
    return own_secret_key(data_dir)


def test_a_secret_key_that_was_being_written_when_all_died_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "secret_key.new").touch()
    assert len(own_secret_key(tmp_path)) >= 32


def test_a_secret_key_that_was_set_is_used_and_not_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "a key of a developer, of 35 letters")
    assert environment(tmp_path)["SECRET_KEY"] == "a key of a developer, of 35 letters"
    assert list(tmp_path.iterdir()) == []


def test_a_second_start_on_the_same_data_names_the_first(tmp_path: Path) -> None:
    first = lock_data_dir(tmp_path / "data")
    first.note(pid=4711)
    with pytest.raises(SettingsError, match=r"DATA_DIR is in use: another --dev \(process 4711\)"):
        lock_data_dir(tmp_path / "data")
    first.drop()
    lock_data_dir(tmp_path / "data").drop()


def test_a_data_dir_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="DATA_DIR is wrong: cannot write to"):
        lock_data_dir(tmp_path / "file")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_one_line_that_names_it(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dev, "FREE_PORT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(
            SettingsError, match=f"PORT is wrong: cannot listen on {host}:{port}: address already in use"
        ):
            check_port(host, port)
    check_port(host, port)


def test_an_orphan_is_ended_and_a_stranger_with_its_process_id_is_not() -> None:
    code = "import time; time.sleep(600)" + " # a long command line is not cut off" * 20
    orphan = subprocess.Popen([sys.executable, "-S", "-c", code, "-m", "worker"])
    stranger = subprocess.Popen([sys.executable, "-S", "-c", code, "-m", "workers.other"])
    try:
        end_orphans({"worker": orphan.pid, "gateway": stranger.pid})
        assert orphan.wait(5) == -9
        assert is_alive(stranger.pid)
        end_orphans({"worker": orphan.pid})
    finally:
        for process in (orphan, stranger):
            process.kill()
            process.wait()


def test_windows_is_told_of_wsl_and_docker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert dev.main() == 2
    said = capsys.readouterr().err
    assert "WSL" in said
    assert "Docker" in said
    assert said.count("\n") == 1


def test_the_modules_can_be_imported_where_there_is_no_fcntl() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import gateway.dev"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("name", "value"), [("PORT", "0"), ("DATABASE_URL", "mysql://x"), ("SECRET_KEY", "short")])
def test_a_wrong_setting_is_one_line_and_status_2(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(name, value)
    assert dev.main() == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{name} is wrong")
    assert said.count("\n") == 1
    assert not (tmp_path / "data").exists()


def test_a_settings_file_that_demands_authentication_does_not_reach_the_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTH_REQUIRED", "true")
    monkeypatch.setenv("HOST", "0.0.0.0")
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert Settings().auth_required is False
