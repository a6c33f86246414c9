#!/usr/bin/env bash
# Install the service on this machine, or put an installation right: run it as often as you like.
# shellcheck disable=SC2034,SC2154 # its parts, in install/, share its variables
set -euo pipefail

HERE=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Where things are is written in deploy/supervisor, nginx, redis and env, too.
APP_DIR=/opt/multi-agent-service
DATA=/var/lib/multi-agent-service
LOGS=/var/log/multi-agent-service
BACKUPS=/var/backups/multi-agent-service
SERVICE_USER=multiagent

server_name="" source_of="" ref="" redis_url="" database_url="" asked_python="" use_nginx=yes dry_run=""

usage() {
  cat <<'TEXT'
usage: install.sh --server-name NAME [options]

Installs the service on Debian, Ubuntu, RHEL or a relative: packages, a user, code, settings, PostgreSQL, Valkey, Supervisor,
nginx. It ends with a health check and a first API key. A second run repairs what is missing, and changes nothing else.

  --server-name NAME   the host name that clients use (needed the first time, unless --no-nginx)
  --source WHAT        where the code comes from: a folder, a tarball or a Git repository (default: where this script is)
  --ref REF            the branch, tag or commit of a Git repository
  --redis-url URL      use this Redis instead of a Valkey on this machine
  --database-url URL   use this PostgreSQL (or sqlite:///FILE) instead of one on this machine
                       `-` for either URL asks for it: for one with a password, which is nobody else's business
  --python COMMAND     the Python to run it with (3.12 or newer is advised, 3.11 needed)
  --no-nginx           leave nginx out: another proxy is in front
  --dry-run            print each step, and change nothing; needs no root
  --help               show this

Exit status: 0 installed and healthy, 1 failed (mend what it says, and run it again), 2 a wrong call.
TEXT
}

for part in steps distribution python databases service web; do
  # shellcheck source=/dev/null
  source "$HERE/install/$part.sh"
done

read_arguments() {
  while (($#)); do
    case $1 in
      --server-name | --source | --ref | --redis-url | --database-url | --python)
        [[ -n ${2-} ]] || die "$1 needs a value: see --help" 2
        case $1 in
          --server-name) server_name=$2 ;;
          --source) source_of=$2 ;;
          --ref) ref=$2 ;;
          --redis-url) redis_url=$2 ;;
          --database-url) database_url=$2 ;;
          --python) asked_python=$2 ;;
        esac
        shift
        ;;
      --no-nginx) use_nginx=no ;;
      --dry-run) dry_run=yes ;;
      --help) usage; exit 0 ;;
      *) die "there is no $1: see --help" 2 ;;
    esac
    shift
  done
  [[ -z $server_name || $server_name =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]] || die "$server_name is no host name" 2
}

# ask_for NAME VALUE: print the value; where it is `-`, what is typed.
ask_for() {
  local typed=$2
  if [[ $2 == - ]]; then
    [[ ! -t 0 ]] || printf 'install: the %s, which is not shown: ' "$1" >&2
    IFS= read -rs typed || die "no $1 was given" 2
  fi
  printf '%s' "$typed"
}

# decide: what .env says goes before all options: it is never written twice.
decide() {
  if [[ -e $APP_DIR/.env && ! -r $APP_DIR/.env ]]; then
    say "$APP_DIR/.env is there, and only root may read it: what a new machine would get is shown"
    redis_url=$OWN_REDIS_URL database_url=$OWN_DATABASE_URL
  elif [[ -e $APP_DIR/.env ]]; then
    [[ -z $redis_url$database_url ]] || say "$APP_DIR/.env is there already: its URLs are used, and the options are not"
    redis_url=$(setting REDIS_URL)
    database_url=$(setting DATABASE_URL)
    [[ -n $server_name ]] || server_name=$(setting ALLOWED_HOSTS | cut -d, -f1)
  else
    redis_url=$(ask_for REDIS_URL "${redis_url:-$OWN_REDIS_URL}")
    database_url=$(ask_for DATABASE_URL "${database_url:-$OWN_DATABASE_URL}")
  fi
  [[ -n $server_name || $use_nginx == no ]] || die "give --server-name: the host name that clients use" 2
  own_redis=no own_database=no needs_git=no
  [[ $redis_url != "$OWN_REDIS_URL" ]] || own_redis=yes
  [[ $database_url != "$OWN_DATABASE_URL" ]] || own_database=yes
  source_of=${source_of:-${HERE%/deploy/scripts}}
  [[ ! -e $source_of ]] || source_of=$(realpath "$source_of")
  if [[ $asked_python == */* ]]; then asked_python=$(realpath --no-symlinks "$asked_python"); fi
  cd / # where every user may be
  if [[ -e $source_of/.git || ! -e $source_of ]]; then needs_git=yes; fi
}

lock() {
  [[ -z $dry_run ]] || return 0
  mkdir -p "$APP_DIR"
  exec 9>>"$APP_DIR/upgrade.lock"
  flock --nonblock 9 || die "another installation or upgrade is running"
}

install_code() {
  local python=""
  step "The user $SERVICE_USER, which cannot log in and is in no other group, so not in sudo"
  make_user
  step "Folders"
  make_folders
  make_redis_folder
  step "uv"
  install_uv
  step "Code and its packages"
  if ! works "$APP_DIR/current"; then
    choose_python "$asked_python"
    say "Python: $python"
  fi
  make_release "$source_of" "$ref" "$python"
  step "Settings"
  write_settings "$release/deploy/env/production.env" "$server_name" "$redis_url" "$database_url"
  step "Graphs, and what they need"
  make_graphs
  install_dependencies
  [[ -n $dry_run ]] && current="releases/…" || current=releases/$(basename "$release")
  link "$current" "$APP_DIR/current"
}

start_everything() {
  if [[ $own_database == yes ]]; then
    step "PostgreSQL: a role and a database, without a password"
    make_database
  fi
  step "Supervisor"
  supervisor_from_pypi python3
  start_service "$supervisor_service" supervisord_runs \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin supervisord -c "$supervisor_conf"
  [[ $own_redis == no ]] || start_program multi-agent-redis
  start_program multi-agent-service
  step "Rotation of logs"
  put /etc/logrotate.d/multi-agent-service 0644 <"$release/deploy/logrotate/multi-agent-service"
  if [[ $use_nginx == yes ]]; then
    step "nginx"
    make_site "$server_name"
  fi
  step "Health"
  say "\$ health_check.sh"
  [[ -n $dry_run ]] || wait_for 90 health || { health >&2 || true; die "the service is not well: $LOGS has its logs"; }
  step "The first API key"
  first_key
}

summary() {
  step "Done"
  if [[ -n $dry_run ]]; then
    say "Nothing was changed: this was a dry run."
    return 0
  fi
  ((changes > 0)) || say "Nothing had to be changed."
  cat <<TEXT
   The service is up: $(health)
     settings      $APP_DIR/.env
     graphs        $APP_DIR/graphs/langgraph.json
     code          $APP_DIR/current -> $(readlink "$APP_DIR/current")
     data, logs    $DATA, $LOGS
     programs      supervisorctl status
   What to do next: docs/operations.md (keys of model providers, a certificate, firewall, backup, monitoring).
TEXT
}

main() {
  umask 022
  read_arguments "$@"
  [[ -n $dry_run ]] || ((EUID == 0)) || die "this needs root (--dry-run does not)"
  decide
  read_distribution
  lock
  [[ -z $dry_run ]] || say "A dry run for $distribution: what is said is not done."
  step "Packages of $distribution"
  install_packages "${packages[@]}"
  install_code
  start_everything
  summary
}

main "$@"
