#!/usr/bin/env bash
# The service's settings, and what they name: PostgreSQL on this machine, and the folder of the Valkey on it.
# shellcheck disable=SC2034,SC2154 # install.sh and its parts share their variables
set -euo pipefail

OWN_REDIS_URL="unix://$DATA/redis/redis.sock?db=0"
OWN_DATABASE_URL="postgresql:///multiagent?host=/var/run/postgresql"

# setting NAME: what .env says, or nothing. It is not run as a shell script: the service's user owns it.
setting() {
  if [[ -r $APP_DIR/.env ]]; then sed -n "s/^$1=//p" "$APP_DIR/.env" | tail -n 1; fi
}

# write_settings PRODUCTION_ENV NAME REDIS DATABASE: .env from the example. Only builtins handle what may hold a password.
write_settings() {
  local line file=$APP_DIR/.env secret
  if [[ -e $file ]]; then
    say "$file is kept as it is"
    [[ $(stat -c '%U:%G %a' "$file") == "$SERVICE_USER:$SERVICE_USER 600" ]] || {
      run chown "$SERVICE_USER:$SERVICE_USER" "$file"
      run chmod 0600 "$file"
    }
    return 0
  fi
  changed "write $file (mode 0600) with a random SECRET_KEY" || return 0
  secret=$(openssl rand -hex 32)
  (
    umask 077
    while IFS= read -r line; do
      case $line in
        SECRET_KEY=*) line="SECRET_KEY=$secret" ;;
        REDIS_URL=*) line="REDIS_URL=$3" ;;
        DATABASE_URL=*) line="DATABASE_URL=$4" ;;
        ALLOWED_HOSTS=*) line="ALLOWED_HOSTS=${2:+$2,}localhost,127.0.0.1" ;;
        "# install.sh puts"*) continue ;;
      esac
      printf '%s\n' "$line"
    done <"$1" >"$file.new"
  )
  chown "$SERVICE_USER:$SERVICE_USER" "$file.new"
  mv -T "$file.new" "$file"
}

as_postgres() { runuser -u postgres -- "$@" 9>&-; }

postgresql_runs() { as_postgres psql --no-psqlrc --quiet --command "select 1" >/dev/null 2>&1; }

start_postgresql() {
  local cluster=()
  if [[ $family == rhel ]]; then
    [[ -e /var/lib/pgsql/data/PG_VERSION ]] || run postgresql-setup --initdb
  elif [[ -z $dry_run ]]; then
    read -ra cluster < <(pg_lsclusters --no-header | sort -rn) || die "PostgreSQL has no cluster: pg_createcluster makes one"
  fi
  start_service postgresql postgresql_runs pg_ctlcluster "${cluster[0]:-VERSION}" "${cluster[1]:-main}" start
}

# A role without a password: PostgreSQL lets the system's user of that name in by the socket, and nobody else.
make_database() {
  local query=(psql --no-psqlrc --tuples-only --no-align --command)
  start_postgresql
  if [[ -n $dry_run ]] || [[ -z $(as_postgres "${query[@]}" "select 1 from pg_roles where rolname = '$SERVICE_USER'") ]]; then
    run runuser -u postgres -- createuser --no-superuser --no-createdb --no-createrole "$SERVICE_USER"
  fi
  if [[ -n $dry_run ]] || [[ -z $(as_postgres "${query[@]}" "select 1 from pg_database where datname = 'multiagent'") ]]; then
    run runuser -u postgres -- createdb --owner "$SERVICE_USER" --template template0 --encoding UTF8 --locale C.UTF-8 multiagent
  fi
  [[ -n $dry_run ]] || say "PostgreSQL has the role $SERVICE_USER and the database multiagent"
}
