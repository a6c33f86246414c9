#!/bin/sh
# Start the gateway, a worker, or one of their commands (`run.sh gateway keys list`) from the release this file belongs to.
set -eu

case ${1-} in
gateway | worker | valkey) ;;
*)
  echo "usage: $0 gateway|worker|valkey [arguments]" >&2
  exit 2
  ;;
esac

# What SIGHUP starts the gateway anew with: by the path it was started by, which leads to another release by then.
GATEWAY_RELOAD_COMMAND="$0 gateway"
export GATEWAY_RELOAD_COMMAND

# By its real path, not by `current`: a process imports from its own release for as long as it lives.
cd -P -- "$(dirname -- "$0")/../.."

if [ "$1" = valkey ]; then
  shift
  exec "$(./.venv/bin/python -c 'from gateway.embedded import find_server; print(find_server())')" "$@"
fi
exec ./.venv/bin/python -m "$@"
