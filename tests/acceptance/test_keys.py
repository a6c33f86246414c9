"""API keys as an operator makes them, on real processes: made, listed, used, revoked, expired."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import PROJECT, SECRET_KEY, Processes, Valkey, free_port, wait_until

KEY = re.compile(r"mas_[0-9a-z]{12}_[0-9A-Za-z]{38}")
REVOKED_SECONDS = 1.0 + 1.0  # what is promised, and slack for a machine that is busy
Keys = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def keys(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """Runs `python -m gateway keys …`."""
    folder = tmp_path_factory.mktemp("elsewhere")  # with no .env

    def run(*arguments: str, redis_url: str = valkey.url) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": "/usr/bin:/bin", "REDIS_URL": redis_url, "PYTHONPATH": str(PROJECT)}
        command = [sys.executable, "-m", "gateway", "keys", *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=60
        )

    return run


@pytest.fixture(scope="module")
def gateways(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[httpx.Client]]:
    """Clients of two gateways that need a key; one of them has two processes."""
    with Processes(tmp_path_factory.mktemp("processes")) as processes:
        started = [
            processes.gateway(valkey.url, AUTH_REQUIRED="true", HOST="0.0.0.0", **more)
            for more in ({}, {"GATEWAY_WORKERS": "2"})
        ]
        clients = [httpx.Client(base_url=gateway.ready().api, trust_env=False, timeout=10) for gateway in started]
        assert "keys create --tenant default" in started[0].process.log
        yield clients
        for client in clients:
            client.close()


def status(client: httpx.Client, key: str) -> int:
    """What a new connection gets: of several processes each has its turn."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    return client.get("/jobs", headers=headers).status_code


def test_a_key_is_printed_once_on_the_last_line_and_opens_every_gateway(
    keys: Keys, gateways: list[httpx.Client]
) -> None:
    made = keys("create", "--tenant", "acme", "--name", "ci", "--scopes", "jobs:read,jobs:write")
    assert made.returncode == 0, made.stderr
    key = made.stdout.splitlines()[-1]
    assert KEY.fullmatch(key)
    for client in gateways:
        wait_until(lambda client=client: status(client, key) == 200, 3, what="the key is known")
        assert client.get("/jobs").status_code == 401

        def lacks_a_scope(client: httpx.Client = client) -> bool:
            answer = client.get("/workers", headers={"X-Api-Key": key})
            return bool(answer.json()["code"] == "insufficient_scope")

        wait_until(lacks_a_scope, 3, what="the key is known to the process that is asked")
    listed = keys("list").stdout
    assert key.split("_")[1] in listed
    assert "acme" in listed
    assert not KEY.search(listed), "the secret is shown once"


def test_a_revoked_key_stops_working_on_every_process_within_a_second(keys: Keys, gateways: list[httpx.Client]) -> None:
    key = keys("create", "--tenant", "acme", "--name", "gone").stdout.splitlines()[-1]
    for client in gateways:
        wait_until(lambda client=client: status(client, key) == 200, 3, what="the key is known")
    revoked = keys("revoke", key.split("_")[1])
    at = time.monotonic()
    assert revoked.returncode == 0, revoked.stderr
    while 200 in [status(client, key) for client in gateways for _ in range(6)]:
        assert time.monotonic() - at < REVOKED_SECONDS
    # 429 where it was tried too often.
    assert {status(client, key) for client in gateways for _ in range(20)} <= {401, 429}
    again = keys("revoke", key.split("_")[1])
    assert (again.returncode, "There is no key" in again.stderr) == (1, True)
    assert key.split("_")[1] not in keys("list").stdout


def test_an_expired_key_stops_working_and_is_listed_as_such(keys: Keys, gateways: list[httpx.Client]) -> None:
    seconds = 4
    key = keys("create", "--tenant", "acme", "--name", "brief", "--expires-days", str(seconds / 86400)).stdout.split()[
        -1
    ]
    wait_until(lambda: status(gateways[0], key) == 200, 3, what="the key is known")
    wait_until(lambda: status(gateways[0], key) != 200, seconds + 5, what="the key has expired")
    line = next(line for line in keys("list").stdout.splitlines() if "brief" in line)
    assert "expired 20" in line


def test_a_key_from_a_file_becomes_valid_once_and_is_never_printed(
    keys: Keys, gateways: list[httpx.Client], tmp_path: Path
) -> None:
    text = keys("generate", redis_url="").stdout.strip()
    assert status(gateways[0], text) != 200
    file = tmp_path / "first"
    file.write_text(f"{text}\n")
    arguments = ("create", "--tenant", "acme", "--name", "file", "--key-file", str(file))
    made, again = keys(*arguments), keys(*arguments)
    for done in (made, again):
        assert (done.returncode, done.stdout) == (0, "")
        assert text not in done.stderr
        assert text.split("_")[1] in done.stderr
    wait_until(lambda: status(gateways[0], text) == 200, 3, what="the key is known")
    assert sum("file" in line.split() for line in keys("list").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "content", [b"", b"mas_broken", b"\xff\xfe", None], ids=["empty", "broken", "bytes", "missing"]
)
def test_a_file_without_a_key_is_told_in_one_line_that_quotes_nothing(
    keys: Keys, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    done = keys("create", "--tenant", "acme", "--name", "x", "--key-file", str(file))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("--key-file is wrong")
    assert "broken" not in done.stderr.replace(str(file), "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "--tenant", "Acme", "--name", "x"], "a tenant has"),
        (["create", "--tenant", "a", "--name", ""], "a name has"),
        (["create", "--tenant", "a", "--name", "x", "--scopes", "all"], "scopes are of"),
        (["create", "--tenant", "a", "--name", "x", "--expires-days", "-1"], "days are"),
        (["create", "--name", "x"], "--tenant"),
        ([], "action"),
    ],
)
def test_a_wrong_argument_is_told(keys: Keys, arguments: list[str], said: str) -> None:
    done = keys(*arguments)
    assert (done.returncode, said in done.stderr, done.stdout) == (2, True, "")


def test_without_redis_the_command_says_so_in_one_line(keys: Keys) -> None:
    done = keys("list", redis_url=f"redis://:secret@127.0.0.1:{free_port()}/0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("REDIS_URL is wrong, or its server is down")
    assert ("secret" in done.stderr, done.stderr.count("\n")) == (False, 1)


def test_no_log_has_a_key_in_it(
    keys: Keys, gateways: list[httpx.Client], tmp_path_factory: pytest.TempPathFactory
) -> None:
    key = keys("create", "--tenant", "acme", "--name", "logged").stdout.split()[-1]
    status(gateways[0], key)
    logs = [path.read_text() for path in Path(tmp_path_factory.getbasetemp()).rglob("*.log")]
    assert logs
    assert SECRET_KEY
    assert not [log for log in logs if KEY.search(log)]
