#!/usr/bin/env bash
# What runs from which release: Supervisor's programs, their processes, and moving them; read by upgrade.sh.
set -euo pipefail

GATEWAY=multi-agent-service
WORKERS=multi-agent-worker
GATEWAY_SECONDS=${GATEWAY_SECONDS:-120} # two checks of the new code, and the start of its processes
WORKER_SECONDS=${WORKER_SECONDS:-60}    # from its start until it is on the list of workers
read -ra supervisorctl <<<"${SUPERVISORCTL:-supervisorctl}"

HEALTH='
import json, sys, time, urllib.error, urllib.request
url, wanted, deadline = sys.argv[1], sys.argv[2].split(","), time.monotonic() + float(sys.argv[3])
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
while True:
    try:
        with opener.open(url, timeout=5) as answer:
            status = json.load(answer)["status"]
    except urllib.error.HTTPError as error:
        status = "down"
        error.close()
    except (OSError, ValueError, KeyError):
        status = "none"
    if status in wanted or time.monotonic() > deadline:
        print(status)
        sys.exit(status not in wanted)
    time.sleep(0.2)
'
ADDRESS='
from shared.settings import load_settings
settings = load_settings()
host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
host = f"[{host}]" if ":" in host else host
print(f"http://{host}:{settings.port}/api/v1/health")
'

# as_service FOLDER COMMAND…: as the service itself would run it, with nothing of this shell's environment.
as_service() {
  (become_service "$@")
}

become_service() {
  local user=()
  cd "$1"
  shift
  [[ -z $SERVICE_USER ]] ||
    user=(setpriv --reuid="$SERVICE_USER" --regid="$(id -g "$SERVICE_USER")" --init-groups)
  exec env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$DATA_DIR_ROOT" "${user[@]}" "$@" 9>&-
}

# health_is WANTED SECONDS [URL]: print the service's health (ok, degraded, down, none); true once it is one of WANTED.
health_is() {
  "$PYTHON" -I -c "$HEALTH" "${3:-$HEALTH_URL}" "$1" "$2" 9>&-
}

health_url() { # RELEASE
  as_service "$1" ./.venv/bin/python -c "$ADDRESS"
}

ctl() {
  "${supervisorctl[@]}" "$@" 9>&-
}

# programs: "name state pid" of the gateway and the workers, one a line; pid is 0 of one that does not run.
programs() {
  { ctl status || true; } | awk -v gateway="$GATEWAY" -v workers="$WORKERS:" \
    '$1 == gateway || index($1, workers) == 1 { print $1, $2, ($3 == "pid" ? $4 + 0 : 0) }'
}

# look_at PROGRAM: set `state` and `pid`, which is empty where it does not run.
look_at() {
  state="" pid=""
  read -r _ state pid < <(programs | awk -v name="$1" '$1 == name') || true
  [[ $pid != 0 ]] || pid=""
}

release_of() { # PID
  readlink "/proc/$1/cwd" 2>/dev/null || true
}

children_of() { # PID
  cat "/proc/$1/task/$1/children" 2>/dev/null || true
}

# gateway_runs RELEASE PID: all of the gateway's processes run from it, and none of another one answers any more.
gateway_runs() {
  local release=$1 pid=$2 child
  [[ -n $pid && $(release_of "$pid") == "$release" ]] || return 1
  for child in $(children_of "$pid"); do
    if tr '\0' ' ' <"/proc/$child/cmdline" 2>/dev/null | grep -q -- ' --socket '; then
      [[ $(release_of "$child") == "$release" ]] || return 1
    fi
  done
}

# move_gateway RELEASE HEALTH: reload it from `current`, which is RELEASE, and wait until that serves with this health.
move_gateway() {
  local release=$1 wanted=$2 deadline=$((SECONDS + GATEWAY_SECONDS)) told=-100 pid state
  look_at "$GATEWAY"
  while ! gateway_runs "$release" "$pid"; do
    if ((SECONDS > deadline)); then
      warn "the gateway does not run from $(basename "$release") within $GATEWAY_SECONDS s: its log says why"
      return 1
    fi
    if [[ $state == @(STOPPED|EXITED|FATAL) ]]; then
      ctl start "$GATEWAY" >/dev/null || true
    elif [[ -n $pid && $(release_of "$pid") != "$release" ]] && ((SECONDS - told > 15)); then
      say "reloading the gateway"
      ctl signal HUP "$GATEWAY" >/dev/null || true
      told=$SECONDS
    fi
    sleep 0.5
    look_at "$GATEWAY"
  done
  health_is "$wanted" 20 >/dev/null || { warn "the gateway's health is $(health_is "$wanted" 0)"; return 1; }
}

# worker_listed PID: it, or each of its processes where it keeps several, is on the service's list of workers.
worker_listed() {
  local pid=$1 listed child children
  listed=$(as_service "$TOOLS" ./.venv/bin/python -m gateway workers 2>/dev/null | awk -v host="$(uname -n)" \
    '$1 == host { print $2 }') || return 1
  grep -qx "$pid" <<<"$listed" && return 0
  children=$(children_of "$pid")
  [[ -n ${children// /} ]] || return 1
  for child in $children; do
    grep -qx "$child" <<<"$listed" || return 1
  done
}

# move_worker PROGRAM RELEASE: let it drain, start it from `current`, which is RELEASE, and wait until it takes jobs.
move_worker() {
  local program=$1 release=$2 deadline pid state first=""
  look_at "$program"
  if [[ -n $pid && $(release_of "$pid") == "$release" ]] && worker_listed "$pid"; then return 0; fi
  say "restarting $program: it drains first"
  ctl restart "$program" >/dev/null || true
  deadline=$((SECONDS + WORKER_SECONDS))
  while ((SECONDS <= deadline)); do
    look_at "$program"
    if [[ $state == @(FATAL|STOPPED|EXITED) || (-n $first && $pid != "$first") ]]; then
      warn "$program has died at its start: its log says why"
      return 1
    fi
    first=${first:-$pid}
    if [[ -n $pid && $(release_of "$pid") == "$release" ]] && worker_listed "$pid"; then return 0; fi
    sleep 0.5
  done
  warn "$program is not on the list of workers within $WORKER_SECONDS s of its start: its log says why"
  return 1
}

# releases_in_use: the folders that some process of this machine runs in, or whose files it executes.
releases_in_use() {
  { find /proc -maxdepth 2 \( -name cwd -o -name exe \) -path '/proc/[0-9]*' -printf '%l\n' 2>/dev/null || true; } |
    awk -v folder="$RELEASES/" 'index($0, folder) == 1 { split(substr($0, length(folder) + 1), part, "/"); print folder part[1] }' |
    sort -u
}
