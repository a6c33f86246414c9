"""Three sentinels, a master and two replicas, all real and on loopback, which fail over within seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import redis

from gateway.embedded import find_server
from tests.servers import _BARE_ENVIRONMENT, Process, Valkey, free_port, wait_until

NAME = "jobs"
DOWN_AFTER_MS = 1000
# Down-after, the vote (its delay is random), the promotion and the clients' own tries; with slack for a busy machine.
FAILOVER_SECONDS = 25.0


class Sentinels:
    """The group. `url` is its `REDIS_URL`; `password` is asked by the servers, `sentinel_password` by the sentinels.

    `monitored_port` is where the master is said to be, where something stands in front of it.
    """

    def __init__(
        self, folder: Path, *, password: str = "", sentinel_password: str = "", replicas: int = 2, **options: str
    ) -> None:
        self.folder = folder
        self.password = password
        self.sentinel_password = sentinel_password
        logins = {"requirepass": password, "masterauth": password} if password else {}
        self.options = {**logins, "repl_diskless_sync_delay": "0", "min_replicas_max_lag": "3", **options}
        self.servers = [Valkey(folder / "server-0", password=password, **self.options)]
        for number in range(1, replicas + 1):
            self._add_replica(number)
        self.sentinels: list[Process] = []
        self.ports = [free_port() for _ in range(3)]

    def _add_replica(self, number: int) -> None:
        of = f"127.0.0.1 {self.servers[0].port}"
        server = Valkey(self.folder / f"server-{number}", password=self.password, replicaof=of, **self.options)
        self.servers.append(server)

    def start(self, monitored_port: int = 0) -> Self:
        """Wait until the replicas are in step, and start the sentinels."""
        wait_until(
            lambda: all(self.info(one).get("master_link_status") == "up" for one in self.servers[1:]),
            20,
            what="the replicas are in step",
        )
        master = monitored_port or self.servers[0].port
        for number, port in enumerate(self.ports):
            folder = self.folder / f"sentinel-{number}"
            folder.mkdir(parents=True)
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"sentinel monitor {NAME} 127.0.0.1 {master} 2",
                f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {NAME} 6000",
                f"sentinel parallel-syncs {NAME} 2",
            ]
            if self.password:
                lines.append(f"sentinel auth-pass {NAME} {self.password}")
            if self.sentinel_password:
                lines += [f"requirepass {self.sentinel_password}", f"sentinel sentinel-pass {self.sentinel_password}"]
            (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
            command = [str(find_server()), str(folder / "sentinel.conf"), "--sentinel"]
            self.sentinels.append(Process("sentinel", command, folder, _BARE_ENVIRONMENT))
        for port in self.ports:
            wait_until(lambda at=port: self._knows_all(at), 20, what="the sentinels know each other")  # type: ignore[misc]
        return self

    def url(self, scheme: str = "redis+sentinel", options: str = "") -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        login = f":{self.password}@" if self.password else ""
        if self.sentinel_password:
            options = f"{options}&sentinel_password={self.sentinel_password}".lstrip("&")
        return f"{scheme}://{login}{hosts}/{NAME}/0{'?' * bool(options)}{options}"

    def master(self) -> Valkey:
        """The server that two sentinels or more take for the master."""
        ports = [self._ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME) for port in self.ports]
        known = [int(answer[1]) for answer in ports if answer]
        return next(one for one in self.servers if known.count(one.port) >= 2)

    def replicas(self) -> list[Valkey]:
        """All servers but the master."""
        master = self.master()
        return [one for one in self.servers if one is not master]

    def info(self, server: Valkey) -> dict[str, Any]:
        """What this server says of replication; empty where it does not answer."""
        try:
            with server.client() as client:
                return dict(client.info("replication"))  # type: ignore[arg-type]
        except redis.RedisError:
            return {}

    def fail_over(self, *how: str) -> None:
        """Have the sentinels promote a replica of a master that is well, and wait for it."""
        before = self.master()
        wait_until(lambda: self._ask(self.ports[0], "SENTINEL", "FAILOVER", NAME, *how), what="a fail-over begins")
        self.wait_for_other_than(before)

    def wait_for_other_than(self, server: Valkey) -> Valkey:
        """The new master, once there is one that takes writes."""
        wait_until(
            lambda: self.master() is not server and self.info(self.master()).get("role") == "master",
            FAILOVER_SECONDS,
            what="another server is the master",
        )
        return self.master()

    def settle(self) -> None:
        """Wait until all sentinels name one master, which has all others as its replicas."""

        def settled() -> bool:
            answers = [self._ask(port, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME) for port in self.ports]
            if len({tuple(answer or ()) for answer in answers}) > 1:
                return False
            known = self.info(self.master())
            return known.get("role") == "master" and known["connected_slaves"] == len(self.servers) - 1

        wait_until(settled, FAILOVER_SECONDS, what="the fail-over is over")

    def stop(self) -> None:
        for process in self.sentinels:
            process.resume()
            process.kill()
        for server in self.servers:
            if server.process.status is None:
                server.process.resume()
                server.process.kill()

    def _knows_all(self, port: int) -> bool:
        flat = self._ask(port, "SENTINEL", "MASTER", NAME) or []
        known = dict(zip(flat[::2], flat[1::2], strict=True))
        return known.get("num-other-sentinels") == "2" and known.get("num-slaves") == str(len(self.servers) - 1)

    def _ask(self, port: int, *command: str) -> Any:
        password = self.sentinel_password or None
        try:
            with redis.Redis(port=port, password=password, socket_timeout=2, decode_responses=True) as client:
                return client.execute_command(*command)
        except redis.RedisError:
            return None
