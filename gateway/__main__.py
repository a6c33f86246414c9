"""`python -m gateway`: the gateway's processes, and its small commands."""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
import socket
import sys
import time
from collections.abc import Sequence

from shared.settings import Settings, SettingsError, load_settings

REDIS_START_SECONDS = 15.0
FREE_PORT_SECONDS = 2.0
BACKLOG = 2048


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Gives the exit status: 2 where a setting is wrong, after one line that says which."""
    options = _parser().parse_args(arguments)
    try:
        if options.dev:
            from gateway.dev import main as run_dev

            return run_dev()
        if options.command == "keys":
            from gateway import keys

            return keys.run(options, load_settings())
        if options.command == "workers":
            from gateway import workers

            return workers.run(load_settings())
        if options.command == "webhook-secret":
            return print_webhook_secret(options.tenant)
        if options.check:
            return check(load_settings())
        if options.socket is not None:
            return serve_one_of_several(load_settings(), options.socket, options.report)
        return serve(load_settings())
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def print_webhook_secret(tenant: str) -> int:
    """Print the secret that signs this tenant's webhooks where a job brings none of its own."""
    from shared.signing import default_secret

    print(default_secret(load_settings().require_secret_key(), tenant))
    return 0


def check(settings: Settings) -> int:
    """See whether this code starts with these settings, without serving. Raises whatever is wrong."""
    from gateway.main import create_app

    create_app(settings)
    return 0


def serve(settings: Settings) -> int:
    """Serve HTTP until SIGTERM or SIGINT. Raises `SettingsError`."""
    from gateway.handover import inherited_socket, take_handover
    from shared.store.connection import wait_until_reachable

    prepare(settings)
    handover = take_handover()
    try:
        if handover is None:  # else others serve, with or without Redis
            wait_until_reachable(settings.require_redis_url(), within=REDIS_START_SECONDS)
        with inherited_socket(handover) or listen(settings.host, settings.port) as listener:
            # With recycling, and to reload, too: the parent keeps the socket open while a process is replaced.
            if settings.gateway_workers > 1 or settings.gateway_recycle_requests or settings.gateway_reload_command:
                from gateway.processes import keep_gateways

                return keep_gateways(settings, listener, handover)
            from gateway.server import run

            run(settings, listener)
    except KeyboardInterrupt:
        pass
    return 0


def serve_one_of_several(settings: Settings, fd: int, report_to: int) -> int:
    """Serve from this socket, which the parent keeps, and tell it on `report_to` how that goes."""
    from gateway.server import run

    prepare(settings)
    with socket.socket(fileno=fd) as listener, contextlib.suppress(KeyboardInterrupt):
        run(settings, listener, report_to)
    return 0


def prepare(settings: Settings) -> None:
    """Logs, and a stop that is a success. Raises `SettingsError`."""
    from shared.logs import configure_logs

    settings.require_secret_key()
    configure_logs(settings)
    # The server hands a signal on when it is done with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def listen(host: str, port: int) -> socket.socket:
    """The socket that is served. Raises `SettingsError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + FREE_PORT_SECONDS  # the processes of a killed gateway take a moment to leave
    while True:
        try:
            return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                reason = error.strerror or error
                raise SettingsError(f"HOST and PORT: cannot listen on {host}:{port}: {reason}") from None
        time.sleep(0.05)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m gateway", description="Serve the HTTP API. Settings: the environment.")
    parser.add_argument(
        "--dev", action="store_true", help="run it all on this machine: Valkey, a worker and the gateway"
    )
    parser.add_argument("--check", action="store_true", help="see whether it would start with these settings, and end")
    for for_children in ("--socket", "--report"):
        parser.add_argument(for_children, type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="command")
    from gateway.keys import add_commands

    add_commands(commands.add_parser("keys", help="make, list and revoke API keys"))
    commands.add_parser("workers", help="list the workers that live now: host, process id, since when")
    secret = commands.add_parser("webhook-secret", help="print the secret that signs a tenant's webhooks")
    secret.add_argument("--tenant", default="default", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
