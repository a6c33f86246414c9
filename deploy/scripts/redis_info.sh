#!/usr/bin/env bash
# What the service's Redis or Valkey says of itself (INFO), wherever REDIS_URL leads: its package here brings no client.
set -euo pipefail

APP_DIR=${APP_DIR:-/opt/multi-agent-service}
SERVICE_USER=${SERVICE_USER-multiagent}

usage() {
  cat <<EOF
usage: ${0##*/} [section …]

Print INFO of the server that REDIS_URL names; the sections are its own: server, clients, memory, persistence, stats,
replication, keyspace, … (default: memory persistence clients). "slowlog" prints its slowest commands, without arguments.

  APP_DIR       where the service is installed (default: /opt/multi-agent-service)
  SERVICE_USER  whom to become before reading .env (default: multiagent; empty: nobody else)
EOF
}

as_service() {
  if [[ -n $SERVICE_USER && $(id -un) != "$SERVICE_USER" ]]; then
    # runuser belongs to root and needs no shell of the user; a person without it gets there by sudo.
    if [[ $EUID -eq 0 ]]; then runuser -u "$SERVICE_USER" -- "$@"; else sudo -u "$SERVICE_USER" -- "$@"; fi
  else
    "$@"
  fi
}

main() {
  case ${1-} in
  -h | --help)
    usage
    return
    ;;
  -*)
    usage >&2
    exit 2
    ;;
  esac
  [[ $# -gt 0 ]] || set -- memory persistence clients
  cd -- "$APP_DIR/current" || exit 2
  as_service ./.venv/bin/python - "$@" <<'PYTHON'
import sys

from redis.exceptions import RedisError
from shared.settings import SettingsError, load_settings
from shared.store import connect_sync

try:
    with connect_sync(load_settings().require_redis_url(), answer_within=5) as redis:
        for section in sys.argv[1:]:
            print(f"# {section}")
            if section == "slowlog":
                for entry in redis.slowlog_get(10):
                    print(f"{entry['duration'] / 1000:.1f} ms {entry['command'].split()[0].decode()}")
                continue
            for name, value in redis.info(section).items():
                print(f"{name}:{value}")
except SettingsError as error:
    sys.exit(str(error))
except RedisError as error:
    sys.exit(f"Redis does not answer: {error}")
PYTHON
}

main "$@"
