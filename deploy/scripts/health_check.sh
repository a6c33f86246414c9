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

# The document, by curl or else by python3. 503 has one, too: what is down. Proxies of the environment are not for a
# machine's own service.
fetch() {
  if command -v curl >/dev/null; then
    curl --silent --show-error --noproxy '*' --max-time "$TIMEOUT" "$SERVICE_URL" 2>&1
  elif command -v python3 >/dev/null; then
    python3 -c '
import signal, sys, urllib.error, urllib.request
url, seconds = sys.argv[1], float(sys.argv[2])
signal.signal(signal.SIGALRM, lambda *_: sys.exit("no whole answer in {:g} s".format(seconds)))
signal.setitimer(signal.ITIMER_REAL, seconds)
try:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(url)
    except urllib.error.HTTPError as refused:
        answer = refused
    sys.stdout.write(answer.read().decode("utf-8", "replace"))
except (OSError, ValueError) as error:
    sys.exit(str(error))
' "$SERVICE_URL" "$TIMEOUT" 2>&1
  else
    echo "neither curl nor python3 is here"
    return 1
  fi
}

# The document's parts, a line each: `redis degraded: …`. What cannot be taken apart is shown as it is: the status that
# this script leaves with hangs on nothing but the document's first words.
parts() {
  local told
  if told=$(python3 -c '
import json, sys
for name, part in json.load(sys.stdin)["parts"].items():
    if part["status"] != "ok":
        print("  {} {}: {}".format(name, part["status"], part.get("detail", "")))
' 2>/dev/null <<<"$1"); then
    echo "$told"
  else
    echo "  $1"
  fi
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
  body=$(fetch) || status=$?
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
    parts "$body"
    exit 1
    ;;
  '{"status":"down"'*)
    echo "down:"
    parts "$body"
    exit 2
    ;;
  *)
    echo "down: $SERVICE_URL answers something else: ${body:0:200}"
    exit 2
    ;;
  esac
}

main "$@"
