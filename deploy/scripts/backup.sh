#!/usr/bin/env bash
# Keeps all of the service that cannot be made again, while it runs, in one new folder below /var/backups/multi-agent-service.
set -euo pipefail
# shellcheck source=/dev/null
. "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/backup_places.sh"

usage() {
  cat <<'USAGE'
Usage: backup.sh [--keep-days N] [--quick] [--without-redis]
       backup.sh --check-age HOURS

Keeps the settings, the graphs and teams, a snapshot of Redis and a dump of the threads' database in one new folder,
loads both to see that they are good, and removes backups that are older than --keep-days (30).

  --keep-days N      remove good backups that are older, but never the newest one
  --quick            do not load what was kept: for a machine without the memory for a second Redis
  --without-redis    for a managed Redis that gives no snapshot: have its own taken first
  --check-age HOURS  make no backup: exit status 1 where the newest one is older than this

Places, from the environment: APP_DIR, DATA_DIR_ROOT, BACKUP_DIR, ETC_DIR, SERVICE_USER; PG_BIN for the folder of pg_dump;
METRICS_FILE for a file that node_exporter reads.
USAGE
}

keep_days=30 quick=false redis=true check_age=''
without_redis=()

whole_number() {
  [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1 needs a whole number from 1 on" 2
}

parse() {
  while (($#)); do
    case $1 in
      --keep-days) whole_number "$1" "${2-}"; keep_days=$2; shift ;;
      --check-age) whole_number "$1" "${2-}"; check_age=$2; shift ;;
      --quick) quick=true ;;
      --without-redis) redis=false ;;
      -h | --help) usage; exit 0 ;;
      *) usage >&2; exit 2 ;;
    esac
    shift
  done
}

# The time in a backup's name, in seconds.
time_of() {
  local name=${1##*/}
  date -u -d "${name:0:8} ${name:9:2}:${name:11:2}:${name:13:2}" +%s
}

report_age() {
  local newest hours
  newest=$(complete_backups | tail -n 1)
  [[ -n $newest ]] || fail "there is no backup in $BACKUP_DIR"
  hours=$((($(date +%s) - $(time_of "$newest")) / 3600))
  say "The newest backup is $hours hours old: $newest"
  ((hours <= check_age)) || fail "the newest backup is older than $check_age hours"
}

# What a run that was killed has left: nobody makes a backup now, for this one has the lock.
remove_unfinished() {
  rm -rf "$BACKUP_DIR"/*.partial
}

need_space() {
  local files=0 there folder
  for folder in "$APP_DIR/graphs" "$APP_DIR/teams"; do
    [[ ! -d $folder ]] || files=$((files + $(du -sb "$folder" | cut -f 1)))
  done
  there=$(df --output=avail -B 1 "$BACKUP_DIR" | tail -n 1)
  ((there > size + files)) || fail "$BACKUP_DIR has $((there >> 20)) MB left, and a backup may need $(((size + files) >> 20)) MB"
}

# Redis first: all that it says of a thread is in the database by then, and so in what is dumped later.
keep_data() {
  if $redis; then
    service_python unpinned >"$work/unpinned.json"
    service_python redis >"$work/redis.rdb"
  fi
  service_python database >"$work/$database"
}

keep_settings() {
  [[ ! -f $APP_DIR/.env ]] || cat "$APP_DIR/.env" >"$work/env"
  (cd "$ETC_DIR" && find . -maxdepth 4 -name '*multi-agent*' \( -type f -o -type l \) -print0) |
    tar -C "$ETC_DIR" --no-recursion -czf "$work/etc.tar.gz" --null --files-from=-
}

keep_graphs() {
  local -a folders=()
  for folder in graphs teams; do
    [[ ! -d $APP_DIR/$folder ]] || folders+=("$folder")
  done
  if ((${#folders[@]})); then
    tar -C "$APP_DIR" --exclude=__pycache__ -czf "$work/graphs.tar.gz" "${folders[@]}"
  fi
}

count() {
  if $redis; then
    service_python check --kind "$kind" --db "$db" --redis 3 --database 4 --unpinned 5 \
      3<"$work/redis.rdb" 4<"$work/$database" 5<"$work/unpinned.json"
  else
    service_python check --kind "$kind" --database 4 4<"$work/$database"
  fi
}

describe() {
  local counts='{}' fact
  local -a facts=()
  $quick || counts=$(count)
  for fact in host="$(hostname)" redis_db="$db" database="$database" database_kind="$kind" \
    release="$(basename "$(readlink -f "$APP_DIR/current")")" commit="$(commit_of "$APP_DIR/current")" \
    graphs_commit="$(graphs_commit)"; do
    facts+=(--fact "$fact")
  done
  service_python manifest --counts "$counts" "${without_redis[@]}" "${facts[@]}" >"$work/manifest.json"
}

graphs_commit() {
  git -C "$APP_DIR/graphs" rev-parse HEAD 2>/dev/null || echo none
}

# From here on it is a backup: its name is given last, when all is on the disk.
seal() {
  (cd "$work" && sha256sum -- * >SHA256SUMS)
  sync -f "$work"
  mv -T "$work" "$made"
  sync -f "$BACKUP_DIR"
}

rotate() {
  local folder oldest
  oldest=$(($(date +%s) - keep_days * 86400))
  complete_backups | head -n -1 | while read -r folder; do
    (($(time_of "$folder") >= oldest)) || rm -rf "$folder"
  done
}

# For a rule such as: time() - mas_backup_last_success_timestamp_seconds > 26 * 3600
write_metric() {
  [[ -n ${METRICS_FILE:-} ]] || return 0
  printf 'mas_backup_last_success_timestamp_seconds %s\nmas_backup_last_size_bytes %s\n' \
    "$(date +%s)" "$(du -sb "$made" | cut -f 1)" >"$METRICS_FILE.new"
  chmod 0644 "$METRICS_FILE.new"
  mv "$METRICS_FILE.new" "$METRICS_FILE"
}

main() {
  parse "$@"
  if [[ -n $check_age ]]; then
    report_age
    exit 0
  fi
  need_release
  take_lock
  remove_unfinished
  $redis || without_redis=(--without-redis)
  plan=$(service_python plan "${without_redis[@]}") || exit 1
  read -r kind db size <<<"$plan"
  database=threads.dump
  [[ $kind != sqlite ]] || database=threads.db
  need_space
  made=$BACKUP_DIR/$(date -u +%Y%m%dT%H%M%SZ)
  [[ ! -e $made ]] || fail "$made is there already"
  work=$made.partial
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  mkdir -m 0700 "$work"
  keep_data
  keep_settings
  keep_graphs
  describe
  seal
  rotate
  write_metric
  say "Backup $made, $(du -sh "$made" | cut -f 1)"
}

main "$@"
