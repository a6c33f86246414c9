#!/usr/bin/env bash
# Say how the service is: exit status 0 ok, 1 degraded (it serves, but something is wrong), 2 down. For cron, Nagios and people.
set -euo pipefail

SERVICE_URL=${SERVICE_URL:-http://127.0.0.1:8000/api/v1/health}
TIMEOUT=${TIMEOUT:-10}

usage() {
  cat <<'HELP'
usage: health_check.sh [--quiet]

Prints the service's state and each part that is not ok. Exit status: 0 ok, 1 degraded, 2 down.
  --quiet       print nothing where all is ok
Environment: SERVICE_URL (default http://127.0.0.1:8000/api/v1/health), TIMEOUT in seconds (default 10).
HELP
}

# The document's parts, a line each: `redis degraded: …`. Without a parser of JSON the document is shown as it is.
parts() {
  local python=python3
  command -v "$python" >/dev/null || { cat; return; }
  "$python" -c '
import json, sys
for name, part in json.load(sys.stdin).get("parts", {}).items():
    if part["status"] != "ok":
        print("  {} {}: {}".format(name, part["status"], part.get("detail", "")))
'
}

main() {
  local quiet=false
  case ${1-} in
  "") ;;
  --quiet) quiet=true ;;
  --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
  esac

  local body status=0
  # 503 has a document, too: what is down. Proxies of the environment are not for a machine's own service.
  body=$(curl --silent --show-error --noproxy '*' --max-time "$TIMEOUT" "$SERVICE_URL" 2>&1) || status=$?
  if [ "$status" -ne 0 ]; then
    echo "down: $SERVICE_URL does not answer: $body"
    exit 2
  fi
  case $body in
  '{"status":"ok"'*)
    $quiet || echo "ok"
    exit 0
    ;;
  '{"status":"degraded"'*)
    echo "degraded:"
    parts <<<"$body"
    exit 1
    ;;
  '{"status":"down"'*)
    echo "down:"
    parts <<<"$body"
    exit 2
    ;;
  *)
    echo "down: $SERVICE_URL answers something else: ${body:0:200}"
    exit 2
    ;;
  esac
}

main "$@"
