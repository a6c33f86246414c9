"""`python -m gateway`: the gateway's processes, and its small commands."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from collections.abc import Sequence

from shared.settings import Settings, SettingsError, load_settings

REDIS_START_SECONDS = 15.0
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
        if options.command == "webhook-secret":
            return print_webhook_secret(options.tenant)
        return serve(load_settings())
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2


def print_webhook_secret(tenant: str) -> int:
    """Print the secret that signs this tenant's webhooks where a job brings none of its own."""
    from shared.signing import default_secret

    print(default_secret(load_settings().require_secret_key(), tenant))
    return 0


def serve(settings: Settings) -> int:
    """Serve HTTP until SIGTERM or SIGINT. Raises `SettingsError`."""
    from gateway.server import run_one, run_several
    from shared.logs import configure_logs
    from shared.store.connection import wait_until_reachable

    settings.require_secret_key()
    configure_logs(settings)
    # The server hands a signal on when it is done with it: stopping when asked to is a success.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        wait_until_reachable(settings.require_redis_url(), within=REDIS_START_SECONDS)
        with listen(settings.host, settings.port) as listener:
            # With recycling, too: the parent keeps the socket open while a process is replaced.
            several = settings.gateway_workers > 1 or settings.gateway_recycle_requests > 0
            (run_several if several else run_one)(settings, listener)
    except KeyboardInterrupt:
        pass
    return 0


def listen(host: str, port: int) -> socket.socket:
    """The socket that is served. Raises `SettingsError` where it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(f"HOST and PORT: cannot listen on {host}:{port}: {error.strerror or error}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m gateway", description="Serve the HTTP API. Settings: the environment.")
    parser.add_argument(
        "--dev", action="store_true", help="run it all on this machine: Valkey, a worker and the gateway"
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    from gateway.keys import add_commands

    add_commands(commands.add_parser("keys", help="make, list and revoke API keys"))
    secret = commands.add_parser("webhook-secret", help="print the secret that signs a tenant's webhooks")
    secret.add_argument("--tenant", default="default", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
