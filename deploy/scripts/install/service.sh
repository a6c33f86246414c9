#!/usr/bin/env bash
# The service itself: its user, its folders, its first release and graphs, and its programs under Supervisor.
# shellcheck disable=SC2034,SC2154 # install.sh and its parts share their variables
set -euo pipefail

# Not in sudo, not able to log in: whoever takes the service over has taken over that, and not the machine.
make_user() {
  local groups
  if ! getent passwd "$SERVICE_USER" >/dev/null; then
    run useradd --system --user-group --home-dir "$DATA" --no-create-home --shell /usr/sbin/nologin "$SERVICE_USER"
    return
  fi
  groups=$(id -nG "$SERVICE_USER")
  if [[ $groups == "$SERVICE_USER" ]]; then
    say "all there: $SERVICE_USER"
  else
    warn "$SERVICE_USER is in more groups than its own ($groups): take it out with gpasswd --delete $SERVICE_USER GROUP"
  fi
}

make_folders() {
  local mine=$SERVICE_USER:$SERVICE_USER
  folder "$APP_DIR" root:root 755
  folder "$APP_DIR/releases" root:root 755
  folder "$APP_DIR/tools" root:root 755
  # The service reads what its graphs are, and cannot change it: root installs what they need.
  folder "$APP_DIR/graphs" "root:$SERVICE_USER" 750
  folder "$APP_DIR/teams" "root:$SERVICE_USER" 750
  folder "$DATA" "$mine" 700
  # The service writes its log here, and cannot replace the folder that root's supervisord writes to (hence the 1).
  folder "$LOGS" "root:$SERVICE_USER" 1770
  folder "$LOGS/supervisor" "root:$SERVICE_USER" 750
  folder "$BACKUPS" root:root 700
}

# In a folder of the service's own, root does nothing: the service could have put a link there.
make_redis_folder() {
  local redis=$DATA/redis
  if [[ -d $redis ]]; then return 0; fi
  if changed "\$ mkdir -m 0700 $redis (as $SERVICE_USER)"; then
    setpriv --reuid="$SERVICE_USER" --regid="$SERVICE_USER" --clear-groups mkdir -m 0700 "$redis"
  fi
}

works() { [[ -x $1/.venv/bin/python ]] && "$1/.venv/bin/python" -c "" 2>/dev/null; }

# make_release SOURCE REF PYTHON: set `release` to what `current` is, or will be.
make_release() {
  if works "$APP_DIR/current"; then
    release=$(readlink -f "$APP_DIR/current")
    say "$(basename "$release") is there: upgrade.sh brings a newer one"
    return 0
  fi
  # One that an installation made which was interrupted before it was used.
  release=$(find "$APP_DIR/releases" -mindepth 1 -maxdepth 1 -type d -name '[0-9]*' 2>/dev/null | sort | tail -n 1) || true
  if [[ -n $release ]] && works "$release"; then
    say "$(basename "$release") is there"
    return 0
  fi
  if changed "\$ release.sh --source $1${2:+ --ref $2} (with $3)"; then
    release=$(APP_DIR=$APP_DIR UV_PYTHON=$3 "$HERE/release.sh" --source "$1" ${2:+--ref "$2"} 9>&- | tail -n 1)
    [[ -d $release ]] || die "no release was made"
  else
    release=${HERE%/deploy/scripts} # what a dry run reads its files from
  fi
}

# A first configuration, which serves what the service ships.
make_graphs() {
  if [[ -e $APP_DIR/graphs/langgraph.json ]]; then return 0; fi
  put "$APP_DIR/graphs/langgraph.json" 0644 <<'JSON'
{
  "dependencies": [],
  "graphs": {
    "customer_service": "worker.graphs.customer_service:graph"
  }
}
JSON
}

# Only for graphs of root's folder, whatever .env says: what builds a project runs its code, here as root.
install_dependencies() {
  say "\$ python -m worker install"
  [[ -n $dry_run ]] || (
    cd "$release"
    GRAPHS_CONFIG=$APP_DIR/graphs/langgraph.json UV=$APP_DIR/tools/uv/bin/uv UV_CACHE_DIR=$APP_DIR/tools/cache \
      ./.venv/bin/python -m worker install 9>&-
  ) || die "the packages that the graphs need cannot be installed"
}

supervisord_runs() { [[ $(supervisorctl pid 2>/dev/null) =~ ^[1-9][0-9]*$ ]]; }

# start_program FILE: put this file where supervisord looks, and have its programs run.
start_program() {
  local before=$changes name program
  put "$supervisor_files/$1.$suffix" 0644 <"$release/deploy/supervisor/$1.conf"
  if [[ -n $dry_run ]] || ((changes > before)) || ! supervisorctl avail 2>/dev/null | grep -q "^$1 .*in use"; then
    run supervisorctl reread
    while read -r name; do
      run supervisorctl update "$name"
    done < <(sed -n 's/^\[program:\(.*\)\]$/\1/p' "$release/deploy/supervisor/$1.conf")
  fi
  [[ -z $dry_run ]] || return 0
  while read -r program; do
    run supervisorctl start "$program" || true # health says what is wrong with it
  done < <({ supervisorctl status || true; } | awk '$1 ~ /^multi-agent-/ && $2 ~ /STOPPED|EXITED|FATAL/ { print $1 }')
}

health() { "$release/deploy/scripts/health_check.sh" 9>&-; }

# first_key: where there is none yet. It is printed, and kept nowhere.
first_key() {
  local keys
  [[ -z $dry_run ]] || { say "\$ run.sh gateway keys create --tenant default … (where there is no key yet)"; return 0; }
  keys=$(as_service ./deploy/scripts/run.sh gateway keys list) || die "the API keys cannot be listed"
  if [[ $(wc -l <<<"$keys") -gt 1 ]]; then
    say "there are keys already: run.sh gateway keys list shows them"
    return 0
  fi
  changed "a first key, for jobs of the tenant default. It is shown this once:"
  as_service ./deploy/scripts/run.sh gateway keys create --tenant default --name "first key" --scopes jobs:read,jobs:write 2>/dev/null ||
    die "no API key was made"
}
