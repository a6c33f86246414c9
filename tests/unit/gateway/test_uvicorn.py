"""What of uvicorn the gateway builds on, some of it private: a version that changed it must not go unseen.

Where one of these fails after an upgrade, read what uvicorn does now, and then gateway/connections.py and
gateway/server.py: an override that is no longer called bounds nothing, and says nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

import pytest
import uvicorn
from uvicorn import Config, Server
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from gateway.connections import BoundedProtocol
from gateway.server import TICKS_PER_SECOND, PatientServer

PARAMETERS = {
    HttpToolsProtocol: {
        "connection_made": ["transport"],
        "connection_lost": ["exc"],
        "data_received": ["data"],
        "on_message_begin": [],
        "on_url": ["url"],
        "on_headers_complete": [],
        "on_body": ["body"],
        "on_message_complete": [],
        "on_response_complete": [],
        "send_400_response": ["msg"],
        "_start_asgi_task": ["cycle", "app"],
        "_unsupported_upgrade_warning": [],
    },
    Server: {"__init__": ["config"], "startup": ["sockets"], "on_tick": ["counter"], "shutdown": ["sockets"]},
}
PROTOCOL_ATTRIBUTES = {
    "app_state", "cycle", "flow", "headers", "pipeline", "server_state", "timeout_keep_alive", "transport",
}  # fmt: skip
CYCLE_ATTRIBUTES = {"disconnected", "keep_alive", "message_event", "response_complete", "transport"}
CHANGED = f"uvicorn {uvicorn.__version__} is not what the gateway was written for (see this file's docstring): "


@pytest.mark.parametrize(
    ("base", "name"), [(base, name) for base, methods in PARAMETERS.items() for name in methods], ids=str
)
def test_what_the_gateway_overrides_is_there_and_is_called_with_the_same_arguments(base: type, name: str) -> None:
    method = vars(base).get(name)
    assert method is not None, f"{CHANGED}{base.__name__}.{name} is gone"
    found = list(inspect.signature(method).parameters)[1:]
    assert found == PARAMETERS[base][name], f"{CHANGED}{base.__name__}.{name} takes {found}"


@pytest.mark.parametrize(("ours", "base"), [(BoundedProtocol, HttpToolsProtocol), (PatientServer, Server)])
def test_all_that_the_gateway_overrides_is_looked_at_here(ours: type, base: type) -> None:
    overridden = {name for name, part in vars(ours).items() if inspect.isfunction(part) and hasattr(base, name)}
    assert overridden == set(PARAMETERS[base])


@pytest.mark.parametrize("caller", ["on_headers_complete", "on_response_complete"])
def test_each_request_is_started_by_the_method_that_the_gateway_overrides(caller: str) -> None:
    names = vars(HttpToolsProtocol)[caller].__code__.co_names
    assert "_start_asgi_task" in names, f"{CHANGED}{caller} starts requests by itself"


async def test_connections_and_requests_have_the_attributes_that_the_gateway_reads() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    config = Config(app, lifespan="off", log_config=None)
    protocol = HttpToolsProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    gone = PROTOCOL_ATTRIBUTES - set(vars(protocol))
    assert not gone, f"{CHANGED}HttpToolsProtocol has no {gone}"
    given: dict[str, Any] = dict.fromkeys(inspect.signature(RequestResponseCycle).parameters)
    given["message_event"] = asyncio.Event()
    cycle = RequestResponseCycle(**given)
    gone = CYCLE_ATTRIBUTES - set(vars(cycle))
    assert not gone, f"{CHANGED}RequestResponseCycle has no {gone}"
    assert hasattr(FlowControl, "resume_reading"), f"{CHANGED}FlowControl has no resume_reading"
    assert {"total_requests", "connections"} <= set(vars(ServerState())), f"{CHANGED}ServerState counts otherwise"


async def test_an_answer_goes_out_through_the_transport_that_the_gateway_puts_in_its_way() -> None:
    written: list[bytes] = []
    closed: list[bool] = []

    class Outlet:
        def write(self, data: bytes) -> None:
            written.append(data)

        def close(self) -> None:
            closed.append(True)

    class Unread:
        write_paused = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    known: dict[str, Any] = {
        "scope": {"type": "http", "method": "GET", "headers": []}, "flow": Unread(), "logger": logging.getLogger(),
        "access_logger": logging.getLogger(), "access_log": False, "default_headers": [],
        "message_event": asyncio.Event(), "expect_100_continue": False, "keep_alive": False,
        "on_response": lambda: None, "transport": None,
    }  # fmt: skip
    parameters = set(inspect.signature(RequestResponseCycle).parameters)
    assert parameters == set(known), f"{CHANGED}RequestResponseCycle takes {parameters}"
    cycle = RequestResponseCycle(**known)
    cycle.transport = Outlet()  # type: ignore[assignment]
    await cycle.run_asgi(app)
    assert b"".join(written).endswith(b"ok"), f"{CHANGED}an answer does not go through its cycle's transport"
    assert closed == [True], f"{CHANGED}an answer does not close its cycle's transport"


async def test_the_server_ticks_as_often_as_connections_are_looked_at() -> None:
    constants = vars(Server)["main_loop"].__code__.co_consts
    assert 1 / TICKS_PER_SECOND in constants, f"{CHANGED}the server's loop sleeps {constants}"
