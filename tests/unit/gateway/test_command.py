"""`python -m gateway` and `gateway.main`: starting, refusing to start, and what is never imported."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import gateway.main
from gateway.__main__ import main
from shared.settings import Settings, SettingsError
from shared.signing import default_secret
from tests.servers import PROJECT, free_port
from tests.unit.gateway.conftest import SECRET_KEY


def _python(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_gateway_loads_no_graph_library(tmp_path: Path) -> None:
    script = (
        "import sys, gateway.main, gateway.__main__; gateway.main.app\n"
        "loaded = sorted({name.split('.')[0] for name in sys.modules})\n"
        "bad = {'langgraph', 'langchain', 'langchain_core', 'langchain_openai', 'openai', 'worker', 'arq', 'httpx'}\n"
        "print(bad & set(loaded))"
    )
    done = _python("-c", script, folder=tmp_path, SECRET_KEY=SECRET_KEY, REDIS_URL="redis://127.0.0.1:1/0")
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SECRET_KEY": SECRET_KEY}, "REDIS_URL is not set"),
        ({"REDIS_URL": "redis://127.0.0.1:1/0"}, "SECRET_KEY is not set"),
        ({"SECRET_KEY": "short"}, "SECRET_KEY is wrong"),
        ({"PORT": "70000"}, "PORT is wrong"),
        ({"REDIS_URL": "http://x"}, "REDIS_URL is wrong"),
        ({"SECRET_KEY": SECRET_KEY, "REDIS_URL": "redis://u:planted/x@host"}, "REDIS_URL is wrong"),
        ({"DATABASE_URL": "mysql://x"}, "DATABASE_URL is wrong"),
        (
            {"SECRET_KEY": SECRET_KEY, "REDIS_URL": "redis://127.0.0.1:1/0", "LOG_FILE": "/proc/no/file"},
            "LOG_FILE is wrong",
        ),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_2(tmp_path: Path, environment: dict[str, str], says: str) -> None:
    done = _python("-m", "gateway", folder=tmp_path, **environment)
    _assert_one_line(done, says)


def test_a_wrong_setting_is_one_line_and_status_2_under_a_plain_uvicorn(tmp_path: Path) -> None:
    done = _python("-m", "uvicorn", "gateway.main:app", folder=tmp_path, SECRET_KEY="short")
    _assert_one_line(done, "SECRET_KEY is wrong")


def _assert_one_line(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "planted" not in done.stderr
    assert done.stdout == ""


def test_a_redis_that_stays_away_is_one_line_with_its_address_and_never_its_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gateway.__main__.REDIS_START_SECONDS", 0.3)
    monkeypatch.setattr("shared.logs.configure_logs", lambda _: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    port = free_port()
    for workers in ("1", "3"):
        monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
        monkeypatch.setenv("REDIS_URL", f"redis://user:planted@127.0.0.1:{port}/0")
        monkeypatch.setenv("GATEWAY_WORKERS", workers)
        started = time.monotonic()
        assert main([]) == 2
        assert 0.3 <= time.monotonic() - started < 3
        line = capsys.readouterr().err
        assert f"127.0.0.1:{port}" in line
        assert line.count("\n") == 1
        assert "planted" not in line


def test_redis_is_given_15_seconds_at_the_start() -> None:
    from gateway.__main__ import REDIS_START_SECONDS

    assert REDIS_START_SECONDS == 15


def test_a_taken_port_is_one_line() -> None:
    from gateway.__main__ import listen

    with listen("127.0.0.1", free_port()) as first:
        port = first.getsockname()[1]
        with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
            listen("127.0.0.1", port)
    with pytest.raises(SettingsError, match="HOST and PORT"):
        listen("no.such.host.invalid", 8000)


def test_the_webhook_secret_is_printed_as_the_last_line(tmp_path: Path) -> None:
    done = _python("-m", "gateway", "webhook-secret", folder=tmp_path, SECRET_KEY=SECRET_KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == default_secret(SECRET_KEY, "default")
    other = _python("-m", "gateway", "webhook-secret", "--tenant", "acme", folder=tmp_path, SECRET_KEY=SECRET_KEY)
    assert other.stdout.splitlines()[-1] == default_secret(SECRET_KEY, "acme")
    without = _python("-m", "gateway", "webhook-secret", folder=tmp_path)
    assert without.returncode == 2
    assert "SECRET_KEY is not set" in without.stderr


def test_dev_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.dev.main", lambda: 7)
    assert main(["--dev"]) == 7


def test_importing_the_module_needs_no_settings_and_the_app_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(gateway.main, "_app_of_this_process", lambda: made.append(object()) or made[-1])
    try:
        assert gateway.main.app is gateway.main.app
        assert len(made) == 1
    finally:
        del gateway.main.__dict__["app"]
    with pytest.raises(AttributeError):
        gateway.main.nothing  # noqa: B018


def test_an_app_without_a_redis_or_a_secret_is_refused() -> None:
    with pytest.raises(SettingsError, match="REDIS_URL"):
        gateway.main.create_app(Settings(secret_key=SECRET_KEY))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="SECRET_KEY"):
        gateway.main.create_app(Settings(redis_url="redis://127.0.0.1:1/0"))  # type: ignore[arg-type]
