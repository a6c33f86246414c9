#!/usr/bin/env bash
# Bring a new release into service, or the one before back, without a failed request or a lost job.
set -euo pipefail
shopt -s extglob

APP_DIR=${APP_DIR:-/opt/multi-agent-service}
DATA_DIR_ROOT=${DATA_DIR_ROOT:-/var/lib/multi-agent-service}
SERVICE_USER=${SERVICE_USER-multiagent}
HERE=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_of="" ref="" rollback="" keep=5 dry_run="" with_redis="" with_supervisor=""

usage() {
  cat <<'TEXT'
usage: upgrade.sh --source DIR|TARBALL|GIT-URL [--ref REF] [options]
       upgrade.sh --rollback [options]

Makes the new release beside the old one, tries it, and only then lets the gateway and the workers change over, one
after the other. Where anything fails, all goes back to the old release. After an interruption run it again.

  --source WHAT   where the new code comes from: a folder, a tarball, or a Git repository
  --ref REF       the branch, tag or commit of a Git repository
  --rollback      go back to the release that ran before, or put an interrupted upgrade right
  --keep N        releases to keep (default 5), besides those that are used
  --supervisor    also install the new release's Supervisor files and take them up; what changed in them restarts
  --redis         also restart Redis from the new release: an outage of seconds
  --dry-run       say what would be done, and do nothing
  --help          show this

Exit status: 0 done, 1 it failed and the old release serves (or the words say what does), 2 a wrong call.
Environment: APP_DIR, DATA_DIR_ROOT, SERVICE_USER, SUPERVISORCTL, SUPERVISOR_CONF_DIR, GATEWAY_SECONDS, WORKER_SECONDS.
TEXT
}

say() { printf 'upgrade: %s\n' "$*"; }
warn() { printf 'upgrade: %s\n' "$*" >&2; }
die() { warn "$1"; exit "${2:-1}"; }

read_arguments() {
  while (($#)); do
    case $1 in
      --source | --ref | --keep)
        (($# > 1)) || die "$1 needs a value: see --help" 2
        case $1 in --source) source_of=$2 ;; --ref) ref=$2 ;; *) keep=$2 ;; esac
        shift
        ;;
      --rollback) rollback=yes ;;
      --supervisor) with_supervisor=yes ;;
      --redis) with_redis=yes ;;
      --dry-run) dry_run=yes ;;
      --help) usage; exit 0 ;;
      *) die "there is no $1: see --help" 2 ;;
    esac
    shift
  done
  [[ $keep =~ ^[0-9]+$ ]] || die "--keep needs a number" 2
  [[ -n $source_of$rollback ]] || die "give --source or --rollback: see --help" 2
  [[ -z $source_of || -z $rollback ]] || die "give --source or --rollback, not both" 2
}

# linked NAME: the release that this link of APP_DIR names, or nothing.
linked() {
  if [[ -L $APP_DIR/$1 ]]; then readlink -f "$APP_DIR/$1"; fi
}

# point NAME RELEASE: in one step, so that who starts just then finds the one or the other (ln -sfn takes two).
point() {
  ln -sfn "releases/$(basename "$2")" "$APP_DIR/.$1.new"
  mv -T "$APP_DIR/.$1.new" "$APP_DIR/$1"
}

# The state file is there from before the first change until after the last one. from: the release that served; to: the
# one that was to; programs: what ran, for an interruption may have left one of them stopped.
remember() { # FROM TO PROGRAMS
  printf 'from=%s\nto=%s\nprograms=%s\n' "$1" "$2" "$3" >"$STATE.new"
  mv -T "$STATE.new" "$STATE"
}

remembered() { # NAME
  if [[ -f $STATE ]]; then sed -n "s/^$1=//p" "$STATE"; fi
}

# try_release NEW OLD: whether its gateway starts and reaches Redis with today's .env, and its workers would load the
# graphs. Nothing that runs is touched.
try_release() {
  local new=$1 old=$2 broken before line port
  as_service "$new" ./.venv/bin/python -m gateway --check || { warn "its gateway does not start"; return 1; }
  broken=$(as_service "$new" ./.venv/bin/python -m worker check) || { warn "its worker does not start"; return 1; }
  if before=$(as_service "$old" ./.venv/bin/python -m worker check 2>/dev/null); then
    while read -r _ graph line; do
      if ! grep -q "^broken $graph " <<<"$before"; then
        warn "it cannot load the graph $graph, which loads now: $line"
        return 1
      fi
    done < <(grep '^broken ' <<<"$broken")
  fi
  port=$("$PYTHON" -I -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
  try_gateway "$new" "$port" || { warn "its gateway does not serve"; return 1; }
}

try_gateway() { # RELEASE PORT
  local trial trial_pid status=0 deadline=$((SECONDS + 30))
  trial=$(mktemp -d)
  [[ -z $SERVICE_USER ]] || chown "$SERVICE_USER" "$trial"
  # `timeout` ends it too where this script is killed.
  become_service "$1" timeout 60 env HOST=127.0.0.1 PORT="$2" GATEWAY_WORKERS=1 LOG_FILE="$trial/log" \
    ./.venv/bin/python -m gateway >"$trial/output" 2>&1 &
  trial_pid=$!
  until health_is ok 2 "http://127.0.0.1:$2/api/v1/health/ready" >/dev/null; do
    if ((SECONDS > deadline)) || ! kill -0 "$trial_pid" 2>/dev/null; then
      status=1
      break
    fi
  done
  kill "$trial_pid" 2>/dev/null || true
  wait "$trial_pid" || true
  ((status == 0)) || cat "$trial/output" "$trial/log" 2>/dev/null | tail -n 20 >&2
  rm -rf "$trial"
  return "$status"
}

# change_over RELEASE HEALTH PROGRAMS: let all that ran run from this release. What does already is left alone, so that
# it can be called again at any point. The gateway comes first: an old worker gets along with jobs of a new gateway.
change_over() {
  local release=$1 wanted=$2 program pids workers=()
  point current "$release"
  for program in $3; do
    if [[ $program == "$GATEWAY" ]]; then
      move_gateway "$release" "$wanted" || return 1
    else
      workers+=("$program")
    fi
  done
  for program in "${workers[@]}"; do
    move_worker "$program" "$release" || return 1
    if ! health_is "$wanted" 20 >/dev/null; then
      warn "after $program was restarted, health is $(health_is "$wanted" 0)"
      return 1
    fi
  done
  pids=$(programs)
  sleep 2
  if [[ $(programs) != "$pids" ]]; then
    warn "something has died a moment after its start: the logs say why"
    return 1
  fi
}

# The release's files beside those that are installed; they may have been changed by hand.
supervisor_files() { # RELEASE OLD
  local file installed
  for file in "$1"/deploy/supervisor/*.conf; do
    [[ -f $file ]] || continue
    installed=$(find "$SUPERVISOR_CONF_DIR" -name "$(basename "$file" .conf).*" \( -name '*.conf' -o -name '*.ini' \) -print -quit)
    if [[ -z $installed ]] || cmp -s "$file" "$installed"; then continue; fi
    if [[ -n $with_supervisor ]]; then
      cp -p "$installed" "$installed.before-$(basename "$1")"
      install -m 0644 "$file" "$installed.new"
      mv -T "$installed.new" "$installed"
      say "installed $installed; the one before is $installed.before-$(basename "$1")"
    elif ! cmp -s "$file" "$2/deploy/supervisor/$(basename "$file")"; then
      say "$(basename "$file") has changed in this release: compare $file with $installed (--supervisor installs it)"
    fi
  done
  if [[ -n $with_supervisor ]]; then
    ctl reread || return 1
    ctl update || return 1
  fi
}

prune() {
  local release used count=0
  used=$(releases_in_use)
  while read -r release; do
    count=$((count + 1))
    ((count > keep)) || continue
    if [[ $release == @("$(linked current)"|"$(linked previous)") ]] || grep -qxF "$release" <<<"$used"; then continue; fi
    say "removing $release"
    rm -rf "$release"
  done < <(find "$RELEASES" -mindepth 1 -maxdepth 1 -type d ! -name '.*' | sort -r)
}

at_exit() {
  local status=$?
  if [[ -n ${changing:-} ]]; then
    warn "interrupted while the releases changed over: run it again, or run it with --rollback"
  fi
  exit "$status"
}

new_release() {
  local arguments=(--source "$source_of")
  [[ -z $ref ]] || arguments+=(--ref "$ref")
  "$HERE/release.sh" "${arguments[@]}" 9>&- | tail -n 1
}

main() {
  local good target programs status before
  read_arguments "$@"
  [[ -d $APP_DIR ]] || die "there is no $APP_DIR: install.sh makes it"
  [[ -z $SERVICE_USER || $EUID == 0 ]] || die "run it as root: the service's user may not change its own code"
  APP_DIR=$(cd -P "$APP_DIR" && pwd)
  RELEASES=$APP_DIR/releases
  STATE=$APP_DIR/upgrade.state
  # shellcheck source=/dev/null
  source "$HERE/running.sh"
  SUPERVISOR_CONF_DIR=${SUPERVISOR_CONF_DIR:-$([[ -d /etc/supervisor/conf.d ]] && echo /etc/supervisor/conf.d || echo /etc/supervisord.d)}

  exec 9>"$APP_DIR/upgrade.lock"
  flock -n 9 || die "another upgrade is running"
  good=$(remembered from)
  if [[ -n $good ]]; then
    say "the last upgrade, to $(basename "$(remembered to)"), was interrupted: $(basename "$good") served before it"
  else
    good=$(linked current)
  fi
  [[ -d $good ]] || die "$APP_DIR/current names no release: install.sh makes the first one"
  PYTHON=$good/.venv/bin/python
  # shellcheck disable=SC2034 # running.sh asks it
  HEALTH_URL=${SERVICE_URL:-$(health_url "$good")}
  programs=$({ programs | awk '$2 ~ /RUNNING|STARTING|BACKOFF/ { print $1 }'; remembered programs | tr ' ' '\n'; } |
    sed '/^$/d' | sort -u | tr '\n' ' ')
  [[ -n ${programs// /} ]] || die "neither the gateway nor a worker runs under Supervisor: start them first"
  before=$(health_is ok 0) || warn "health is $before before the upgrade: no more than that is asked of it afterwards"
  status=ok
  [[ $before == ok ]] || status=ok,degraded

  if [[ -n $dry_run ]]; then
    say "would make a release of ${source_of:-what ran before}, try it beside $(basename "$good"), and then move, one by one: $programs"
    exit 0
  fi
  if [[ -n $rollback ]]; then
    target=$(remembered from)
    target=${target:-$(linked previous)}
    [[ -d $target ]] || die "there is no release before this one"
  else
    # What starts meanwhile starts from the release that is known to serve.
    [[ $(linked current) == "$good" ]] || point current "$good"
    target=$(new_release) || target=""
    [[ -d $target ]] || die "no new release was made; nothing has changed"
    # Root builds only what lies in a folder of root's, and .env is the service's.
    (cd "$target" && GRAPHS_CONFIG=$APP_DIR/graphs/langgraph.json ./.venv/bin/python -m worker install 9>&-) ||
      die "the graphs' dependencies cannot be installed; nothing has changed"
  fi
  TOOLS=$target
  [[ -f $TOOLS/gateway/workers.py ]] || TOOLS=$(cd -P "$HERE/../.." && pwd)

  if [[ -z $(remembered from) || -z $rollback ]]; then
    say "trying $(basename "$target") beside $(basename "$good")"
    try_release "$target" "$good" || die "$(basename "$target") does not work here: nothing has changed, and it is left for looking at"
  fi

  trap at_exit EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  changing=yes
  remember "$good" "$target" "$programs"
  say "from $(basename "$good") to $(basename "$target")"
  if change_over "$target" "$status" "$programs"; then
    finish "$good" "$target"
  else
    go_back "$good" "$target" "$status" "$programs"
  fi
}

finish() { # OLD NEW
  [[ $1 == "$2" ]] || point previous "$1"
  rm -f "$STATE"
  changing=""
  supervisor_files "$2" "$1" || warn "Supervisor did not take up its files: supervisorctl reread says why"
  if [[ -n $with_redis ]]; then
    say "restarting Redis: an outage of seconds"
    ctl restart multi-agent-redis >/dev/null || true
    health_is ok 60 >/dev/null || die "health is $(health_is ok 0) after the restart of Redis"
  fi
  prune
  say "done: $(basename "$2") serves, health is $(health_is ok 5 || true)"
}

go_back() { # OLD NEW HEALTH PROGRAMS
  warn "going back to $(basename "$1")"
  if change_over "$1" "$3" "$4"; then
    rm -f "$STATE"
    changing=""
    die "FAILED: $(basename "$1") serves as before, with health $(health_is ok 5 || true). $2 is left for looking at"
  fi
  changing=""
  die "FAILED, and so did going back: supervisorctl status and the logs say what does not run. Then run this with --rollback"
}

main "$@"
