"""The real fail2ban on the lines that a real gateway of four processes writes of refused keys."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.deploy.nginx import NAME, Nginx
from tests.deploy.programs import UNPACKED, environment, program
from tests.deploy.service import start_service
from tests.servers import PROJECT, Processes, Valkey, free_port, wait_until

OURS = PROJECT / "deploy" / "fail2ban"
FILTER = OURS / "filter.d" / "multi-agent-service.conf"
GUESSER, FORGETFUL, WELL = "203.0.113.7", "2001:db8::5", "198.51.100.3"
FORGED = '{"client": "192.0.2.66", "event": "API key refused", "request_id": "x", "level": "warning", "logger": '
FORGED += '"gateway.failures", "timestamp": "2026-01-01T00:00:00.000000Z"}'
REFUSED = '{"client": "203.0.113.9", "event": "API key refused", "request_id": "a-b", "level": "warning", "logger": '
REFUSED += '"gateway.failures", "timestamp": "%s"}'


class Fail2ban:
    """Its own server with Debian's configuration and ours, in a folder. Bans are lines in a file."""

    def __init__(self, folder: Path, app_log: Path) -> None:
        self.folder = folder
        self.banned = folder / "banned"
        etc = Path("/etc/fail2ban")
        shutil.copytree(etc if etc.exists() else UNPACKED / "etc" / "fail2ban", folder / "etc")
        for kind in ("filter.d", "jail.d"):
            text = (OURS / kind / "multi-agent-service.conf").read_text()
            text = text.replace("/var/log/multi-agent-service/app.log", str(app_log))
            (folder / "etc" / kind / "multi-agent-service.conf").write_text(text)
        # No journal of an sshd is here, and no packet filter is to be touched.
        (folder / "etc" / "jail.local").write_text("[DEFAULT]\nbanaction = into-a-file\n[sshd]\nenabled = false\n")
        (folder / "etc" / "jail.d" / "zz-test.conf").write_text("[sshd]\nenabled = false\n")
        (folder / "etc" / "action.d" / "into-a-file.conf").write_text(
            f"[Definition]\nactionban = echo <name> <ip> <port> >> {self.banned}\n[Init]\nname = default\nport =\n"
        )
        (folder / "etc" / "fail2ban.local").write_text(
            f"[Definition]\nlogtarget = STDOUT\nsocket = {folder}/socket\npidfile = {folder}/pid\ndbfile = None\n"
        )

    def command(self, name: str, *arguments: str) -> list[str]:
        return [str(program(name)), "-c", str(self.folder / "etc"), *arguments]

    def bans(self) -> list[str]:
        return self.banned.read_text().splitlines() if self.banned.exists() else []


def matched(log: Path, zone: str = "UTC") -> Counter[str]:
    """The addresses that the filter finds in this log, on a machine in this time zone."""
    command = [program("fail2ban-regex"), "--out", "ip", str(log), str(FILTER)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(TZ=zone))
    assert found.returncode in (0, 1), found.stderr  # 1: nothing found
    return Counter(found.stdout.split())


@pytest.fixture(scope="module")
def app_log(tmp_path_factory: pytest.TempPathFactory, valkey_server: Valkey) -> Iterator[Path]:
    """What a gateway behind a proxy has logged of four clients, one of them with bad intentions."""
    folder = tmp_path_factory.mktemp("refused")
    app_log = folder / "app.log"
    valkey_server.flush()
    with Processes(folder / "processes") as processes:
        gateway, key = start_service(processes, valkey_server.url, LOG_FILE=str(app_log), GATEWAY_WORKERS="4")
        with httpx.Client(base_url=gateway.url, trust_env=False, headers={"host": NAME, "connection": "close"}) as http:

            def ask(client: str, credential: str, path: str = "/api/v1/jobs", **headers: str) -> int:
                said = {"x-forwarded-for": client, **({"x-api-key": credential} if credential else {}), **headers}
                return http.get(path, headers=said).status_code

            with ThreadPoolExecutor(4) as pool:
                statuses = Counter(pool.map(lambda _: ask(GUESSER, "mas_guess"), range(200)))
            assert {*statuses} == {401, 429}
            assert [ask(FORGETFUL, "revoked") for _ in range(5)] == [401] * 5
            assert [ask(WELL, key), ask(WELL, "")] == [200, 401]
            # Whatever a client can put into a request, its own address (the proxy's here) is what is logged.
            for text in (FORGED, f"192.0.2.66\\n{FORGED}", '", "client": "192.0.2.66'):
                ask(f'192.0.2.66", "event": "{text}', FORGED, f"/{text}", **{"x-request-id": text, "user-agent": text})
                ask(text, key, f"/api/v1/jobs/{text}", **{"idempotency-key": text})
                http.post("/api/v1/jobs", content=FORGED, headers={"x-api-key": key, "x-forwarded-for": WELL})
        yield app_log


def test_each_line_of_a_refused_key_is_found_and_no_other(app_log: Path) -> None:
    lines = [json.loads(line) for line in app_log.read_text().splitlines()]
    written = Counter(line["client"] for line in lines if line["event"] == "API key refused")
    assert matched(app_log) == written
    assert written[GUESSER] > 60
    assert written[FORGETFUL] == 5
    assert {*written} == {GUESSER, FORGETFUL, "127.0.0.1"}


@pytest.mark.parametrize(
    "line",
    [
        FORGED[:-1],
        FORGED + "x",
        " " + FORGED,
        json.dumps({"path": FORGED, "event": FORGED, "timestamp": "2026-01-01T00:00:00.000000Z"}),
        REFUSED.replace("a-b", 'a", "client": "192.0.2.66') % "2026-01-01T00:00:00.000000Z",
        REFUSED.replace("gateway.failures", "a_graph") % "2026-01-01T00:00:00.000000Z",
        REFUSED.replace("203.0.113.9", "203.0.113.9, 192.0.2.66") % "2026-01-01T00:00:00.000000Z",
        REFUSED.replace("API key refused", "more API keys are refused") % "2026-01-01T00:00:00.000000Z",
    ],
)
def test_what_only_looks_like_it_is_not_found(tmp_path: Path, line: str) -> None:
    log = tmp_path / "lines"
    log.write_text(line + "\n")
    assert matched(log) == Counter()
    log.write_text(FORGED + "\n")
    assert matched(log) == Counter(["192.0.2.66"]), "the line itself, when the gateway writes it"


def test_the_time_of_a_line_is_utc_wherever_the_machine_stands(tmp_path: Path) -> None:
    log = tmp_path / "lines"
    log.write_text(REFUSED % "2026-01-02T03:04:05.678901Z" + "\n")
    for zone in ("UTC", "Asia/Shanghai", "America/New_York"):
        command = [program("fail2ban-regex"), "--out", "<time> <ip>", str(log), str(FILTER)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(TZ=zone))
        assert found.stdout.split() == ["1767323045", "203.0.113.9"], (zone, found.stdout)


def test_who_keeps_guessing_is_banned_and_nobody_else(app_log: Path, tmp_path: Path) -> None:
    fail2ban = Fail2ban(tmp_path, app_log)
    tested = subprocess.run(
        fail2ban.command("fail2ban-client", "--test"), capture_output=True, text=True, timeout=60, env=environment()
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    with Processes(tmp_path / "processes") as processes:
        server = processes.start("fail2ban", fail2ban.command("fail2ban-server", "-f", "start"), **environment())
        wait_until(fail2ban.bans, 30, what="somebody is banned")
        server.stop(20)
    assert fail2ban.bans() == [f"multi-agent-service {GUESSER} http,https"], "once; and not this machine's own address"


def test_the_flood_that_nginx_logs_is_found_by_debian_s_own_filter(tmp_path: Path) -> None:
    with (
        Nginx(tmp_path / "nginx", free_port()) as nginx,
        socket.create_connection(("127.0.0.1", nginx.https_port), 20, source_address=("127.0.0.8", 0)) as plain,
        nginx.trusting().wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall(b"GET /static/0/x HTTP/1.1\r\nHost: localhost\r\n\r\n" * 900)
        wait_until(lambda: "limiting requests" in nginx.error_log.read_text(), 20)
        filter_file = Path("/etc/fail2ban/filter.d/nginx-limit-req.conf")
        filter_file = filter_file if filter_file.exists() else UNPACKED / str(filter_file)[1:]
        command = [program("fail2ban-regex"), "--out", "ip", str(nginx.error_log), str(filter_file)]
        found = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
        assert {*found.stdout.split()} == {"127.0.0.8"}, found.stdout
