#!/usr/bin/env bash
# Puts back what backup.sh has kept, or only sees whether it could: see docs/operations/backup.md.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/backup_places.sh"

REDIS_DIR=${REDIS_DIR:-$DATA_DIR_ROOT/redis}
REDIS_CONF=${REDIS_CONF:-$APP_DIR/current/deploy/redis/valkey.conf}
HEALTH_SECONDS=${HEALTH_SECONDS:-90}

usage() {
  cat <<'USAGE'
Usage: restore.sh BACKUP --verify
       restore.sh BACKUP [--only PART] [--yes] [--stop] [--no-start]

BACKUP is a folder that backup.sh has made, its name below BACKUP_DIR, or "latest".

  --verify      only check it: every byte, and that all pieces load and fit together. Safe while the service runs
  --only PART   restore config, graphs, redis or database alone. redis and database belong together: where one is
                older than the other, threads may have lost what they remember
  --yes         replace what is there. It is kept aside: below BACKUP_DIR, and for Redis and SQLite beside their data
  --stop        stop the service first, by Supervisor
  --no-start    do not start the service afterwards

Places, from the environment: those of backup.sh; REDIS_DIR and REDIS_CONF, the data and the configuration of the Redis
on this machine. A Redis elsewhere is filled over the network.
USAGE
}

verify_only=false yes=false stop=false start=true backup='' only='' aside=''

parse() {
  while (($#)); do
    case $1 in
      --verify) verify_only=true ;;
      --only)
        [[ ${2-} =~ ^(config|graphs|redis|database)$ ]] || fail '--only needs config, graphs, redis or database' 2
        only=$2
        shift
        ;;
      --yes) yes=true ;;
      --stop) stop=true ;;
      --no-start) start=false ;;
      -h | --help) usage; exit 0 ;;
      -*) usage >&2; exit 2 ;;
      *)
        [[ -z $backup ]] || fail 'one backup at a time' 2
        backup=$1
        ;;
    esac
    shift
  done
  [[ -n $backup ]] || { usage >&2; exit 2; }
}

find_backup() {
  if [[ $backup == latest ]]; then
    backup=$(complete_backups | tail -n 1)
    [[ -n $backup ]] || fail "there is no backup in $BACKUP_DIR"
  elif [[ $backup != */* ]]; then
    backup=$BACKUP_DIR/$backup
  fi
  backup=$(readlink -f "$backup")
  [[ -f $backup/SHA256SUMS && $backup != *.partial ]] || fail "$backup is no complete backup"
}

# The text of a field of the manifest, which has one in a line, two spaces from its beginning.
field() {
  sed -n "s/^  \"$1\": \"\\(.*\\)\",\\{0,1\\}\$/\\1/p" "$backup/manifest.json"
}

has() {
  [[ -f $backup/$1 ]]
}

wanted() {
  [[ -z $only || $only == "$1" ]]
}

# Every byte is as it was, and no file is missing or was added. What Redis does not know of yet is noted for the restore.
verify() {
  local listed there
  (cd "$backup" && sha256sum --check --strict --quiet SHA256SUMS >&2) || fail "$backup is damaged"
  listed=$(sed 's/^[^ ]* [ *]//' "$backup/SHA256SUMS" | sort)
  there=$(cd "$backup" && find . -mindepth 1 ! -name SHA256SUMS -printf '%P\n' | sort)
  [[ $listed == "$there" ]] || fail "$backup has other files than it was made with"
  database=$(field database) kind=$(field database_kind) db=$(field redis_db)
  [[ -n $database && -n $kind ]] || fail "$backup/manifest.json is no manifest"
  counts=$(load_for_a_look) || fail "$backup is not good"
  has env && check_archive etc
  if has graphs.tar.gz; then check_archive graphs; fi
}

load_for_a_look() {
  if has redis.rdb; then
    service_python check --kind "$kind" --db "$db" --redis 3 --database 4 --unpinned 5 --begun-since 6 --manifest 7 \
      3<"$backup/redis.rdb" 4<"$backup/$database" 5<"$backup/unpinned.json" 6>"$scratch/begun-since.json" \
      7<"$backup/manifest.json"
  else
    echo '[]' >"$scratch/begun-since.json"
    service_python check --kind "$kind" --database 4 --manifest 7 4<"$backup/$database" 7<"$backup/manifest.json"
  fi
}

check_archive() {
  tar -tzf "$backup/$1.tar.gz" >/dev/null || fail "$backup/$1.tar.gz cannot be read"
}

compare_releases() {
  local kept now
  kept=$(field commit) now=$(commit_of "$APP_DIR/current")
  [[ $kept == "$now" ]] ||
    say "Note: the backup was made by release $kept, and $now is installed. An older release may not read newer records."
}

programs() {
  local -a command
  read -ra command <<<"$SUPERVISORCTL"
  "${command[@]}" "$@"
}

running_programs() {
  { programs status 2>/dev/null || true; } |
    awk '$1 ~ /^multi-agent-/ && $2 ~ /^(RUNNING|STARTING|STOPPING|BACKOFF)$/ { print $1 }'
  if [[ -d /run/systemd/system ]]; then
    systemctl list-units --plain --no-legend --state=active 'multi-agent-*.service' | awk '$1 !~ /backup/ { print $1 }'
  fi
}

# Without --only all of it has to stand still, else all but Redis, which may be what the rest is restored for.
stop_or_refuse() {
  local running
  running=$(running_programs)
  if [[ -n $running && $stop == true ]]; then
    programs stop multi-agent-service 'multi-agent-worker:*' >/dev/null || true
    ! wanted redis || programs stop multi-agent-redis >/dev/null || true
    running=$(running_programs)
  fi
  wanted redis || running=$(grep -v '^multi-agent-redis$' <<<"$running" || true)
  [[ -z $running ]] || fail "the service runs (${running//$'\n'/ }): stop it, or say --stop"
}

# The settings that will be in force: those of the backup, where they are restored.
settings() {
  if wanted config && has env; then cat "$backup/env"; else cat "$APP_DIR/.env"; fi
}

look_at_targets() {
  local state part
  state=$(settings | service_python state --env --redis-dir "$REDIS_DIR") || exit 1
  for part in redis database; do
    ! wanted "$part" || [[ $state != *"$part in use"* ]] || fail "$part: it is in use; stop the service first"
  done
  if [[ -e $APP_DIR/.env ]] && has env && ! cmp -s "$APP_DIR/.env" "$backup/env"; then state+=$'\n''config holds data'; fi
  for part in graphs teams; do
    if [[ -d $APP_DIR/$part ]] && [[ -n $(ls -A "$APP_DIR/$part") ]]; then state+=$'\n''graphs holds data'; fi
  done
  for part in config graphs redis database; do
    if wanted "$part" && [[ $state == *"$part holds data"* && $yes == false ]]; then
      fail "$part: there is something already; --yes replaces it, and keeps it aside"
    fi
  done
  database_holds_data=false redis_here=false
  [[ $state != *"database holds data"* ]] || database_holds_data=true
  [[ $state != *"redis is here"* ]] || redis_here=true
}

# Files are put beside their places first, and moved: one that is there is a whole one.
restore_settings() {
  local file
  if has env; then
    [[ ! -e $APP_DIR/.env ]] || cp -p "$APP_DIR/.env" "$aside/env"
    install -m 0600 "$backup/env" "$APP_DIR/.env.restoring"
    [[ -z $SERVICE_USER ]] || chown "$SERVICE_USER:" "$APP_DIR/.env.restoring"
    mv "$APP_DIR/.env.restoring" "$APP_DIR/.env"
  fi
  mkdir -p "$aside/etc"
  (cd "$ETC_DIR" && tar -tzf "$backup/etc.tar.gz" | while read -r file; do
    [[ ! -e $file ]] || cp -a --parents "$file" "$aside/etc"
  done)
  mkdir -p "$ETC_DIR"
  tar -C "$ETC_DIR" --no-overwrite-dir -xpzf "$backup/etc.tar.gz"
  say "Restored: the settings"
}

restore_graphs() {
  local folder new=$APP_DIR/.restoring
  has graphs.tar.gz || return 0
  rm -rf "$new"
  mkdir -m 0755 "$new"
  tar -C "$new" -xpzf "$backup/graphs.tar.gz"
  for folder in graphs teams; do
    [[ -d $new/$folder ]] || continue
    [[ ! -d $APP_DIR/$folder ]] || mv "$APP_DIR/$folder" "$aside/$folder"
    mv "$new/$folder" "$APP_DIR/$folder"
  done
  rmdir "$new"
  say "Restored: the graphs"
}

restore_redis() {
  local -a config=()
  has redis.rdb || { say 'This backup has no Redis: restore its own snapshot'; return 0; }
  if $redis_here; then
    [[ ! -f $REDIS_CONF ]] || config=(--redis-conf "$(readlink -f "$REDIS_CONF")")
    service_python load-redis --redis-dir "$REDIS_DIR" --db "$db" "${config[@]}" <"$backup/redis.rdb"
  else
    service_python redis >"$aside/redis.rdb"
    service_python fill-redis --db "$db" <"$backup/redis.rdb"
  fi
  say "Restored: Redis"
}

restore_database() {
  if [[ $database_holds_data == true && $kind == postgresql ]]; then
    service_python database >"$aside/$database"
  fi
  service_python load-database --begun-since 3 <"$backup/$database" 3<"$scratch/begun-since.json"
  say "Restored: the threads' database"
}

# Whether Supervisor runs, and knows the service: it answers 3 where not all programs are up.
supervised() {
  local known
  known=$(programs status 2>/dev/null || [[ $? == 3 ]]) && [[ $known == *multi-agent-service* ]]
}

start_service() {
  programs start multi-agent-redis >/dev/null 2>&1 || true
  programs start 'multi-agent-worker:*' multi-agent-service >/dev/null || fail 'the service does not start'
  local ends=$((SECONDS + HEALTH_SECONDS)) status=2
  # Degraded at first: gateways are up before workers.
  while ((status != 0 && SECONDS < ends)); do
    status=0
    "$APP_DIR/current/deploy/scripts/health_check.sh" >"$scratch/health" 2>&1 || status=$?
    ((status == 0)) || sleep 1
  done
  cat "$scratch/health"
  ((status != 2)) || fail 'the service is down'
}

keep_aside() {
  [[ ! -d $aside ]] || find "$aside" -type d -empty -delete
}

clean_up() {
  rm -rf "$scratch"
  keep_aside
}

main() {
  parse "$@"
  need_release
  find_backup
  take_lock
  scratch=$(mktemp -d)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  verify
  say "$backup is good: $counts"
  if $verify_only; then exit 0; fi
  compare_releases
  stop_or_refuse
  look_at_targets
  aside=$BACKUP_DIR/before-restore-$(date -u +%Y%m%dT%H%M%SZ)
  mkdir -m 0700 "$aside"
  ! wanted config || restore_settings
  ! wanted graphs || restore_graphs
  ! wanted redis || restore_redis
  ! wanted database || restore_database
  sync -f "$DATA_DIR_ROOT" "$APP_DIR"
  keep_aside
  [[ ! -d $aside ]] || say "What was there before is in $aside"
  if $start && supervised; then start_service; fi
}

main "$@"
