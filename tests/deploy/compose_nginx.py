"""The site of the compose network on an nginx of Debian's next release, and a name server that plays compose's."""

from __future__ import annotations

import re
import socketserver
import struct
import threading
from pathlib import Path
from typing import Self

from tests.deploy.nginx import NAME, Nginx
from tests.deploy.programs import next_program
from tests.servers import PROJECT, free_port

TEMPLATE = PROJECT / "deploy" / "docker" / "nginx" / "multi-agent-service.conf.template"


def filled_in(**variables: str) -> str:
    """The template as the start of nginx's image makes a site of it, with these variables only."""
    return re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], TEMPLATE.read_text())


class ComposeNginx(Nginx):
    """As `Nginx`, with compose's site: `gateway` is looked up at `names`, and has this port."""

    def __init__(self, folder: Path, names: Names, gateway_port: int) -> None:
        super().__init__(folder, gateway_port, sites="none")
        text = self._redirected(filled_in(DOMAIN=NAME), gateway_port)
        for old, new in {
            "resolver 127.0.0.11 ": f"resolver 127.0.0.1:{names.port} ",
            "server gateway:8000 ": f"server gateway:{gateway_port} ",
            "/dev/stdout": str(self.access_log),
            "/dev/stderr": str(self.error_log),
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        (folder / "sites" / "multi-agent-service.conf").write_text(text)

    @property
    def command(self) -> list[str]:
        return [*next_program("usr/sbin/nginx"), "-c", str(self.configuration), "-p", str(self.folder)]


class Names:
    """A name server that knows one name: `addresses` are what `gateway` has just now."""

    def __init__(self) -> None:
        self.addresses: list[str] = []
        self.port = free_port()
        self._server = socketserver.ThreadingUDPServer(("127.0.0.1", self.port), _answering(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def answer(self, query: bytes) -> bytes:
        """The answer to a question for the addresses of a name (RFC 1035, 4.1): all are there for ten minutes."""
        end = query.index(b"\0", 12) + 5
        name = b".".join(part for part in re.split(rb"[\x00-\x20]", query[12 : end - 5]) if part)
        found = self.addresses if name == b"gateway" else []
        head = query[:2] + struct.pack("!HHHHH", 0x8180 if found else 0x8183, 1, len(found), 0, 0)
        records = b"".join(
            struct.pack("!HHHIH", 0xC00C, 1, 1, 600, 4) + bytes(map(int, address.split("."))) for address in found
        )
        return head + query[12:end] + records

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _answering(names: Names) -> type[socketserver.BaseRequestHandler]:
    class Question(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            query, connection = self.request
            connection.sendto(names.answer(query), self.client_address)

    return Question
