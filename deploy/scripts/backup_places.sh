#!/usr/bin/env bash
# What backup.sh and restore.sh share: where things are, how the service's Python is called, and the lock.
set -euo pipefail
umask 077

APP_DIR=${APP_DIR:-/opt/multi-agent-service}
DATA_DIR_ROOT=${DATA_DIR_ROOT:-/var/lib/multi-agent-service}
BACKUP_DIR=${BACKUP_DIR:-/var/backups/multi-agent-service}
ETC_DIR=${ETC_DIR:-/etc}
SERVICE_USER=${SERVICE_USER-multiagent}
SUPERVISORCTL=${SUPERVISORCTL:-supervisorctl}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$1" >&2
  exit "${2:-1}"
}

say() {
  printf '%s\n' "$*"
}

# Python in the release that runs, as the service's user: what that user may write to, root must not be led through.
service_python() {
  local -a user=()
  [[ -z $SERVICE_USER || $(id -un) == "$SERVICE_USER" ]] || user=(runuser -u "$SERVICE_USER" --)
  (cd -P "$APP_DIR/current" && TMPDIR=$DATA_DIR_ROOT PYTHONDONTWRITEBYTECODE=1 exec "${user[@]}" ./.venv/bin/python -m shared.backup "$@")
}

need_release() {
  [[ -x $APP_DIR/current/.venv/bin/python ]] || fail "$APP_DIR/current has no installed release: run install.sh first"
}

# Held until the script and all that it started have ended, however they end.
take_lock() {
  mkdir -p "$BACKUP_DIR"
  chmod 0700 "$BACKUP_DIR"
  exec {lock}>"$BACKUP_DIR/.lock"
  flock --nonblock "$lock" || fail "another backup or restore is under way ($BACKUP_DIR/.lock)"
}

# The commit of a release: of its checkout, or as its folder is named, <time>-<commit>.
commit_of() {
  local folder
  folder=$(cd -P "$1" && pwd)
  git -C "$folder" rev-parse HEAD 2>/dev/null || { [[ ${folder##*/} == [0-9]*-* ]] && echo "${folder##*-}"; } || echo unknown
}

# All complete backups, oldest first: their names are their times.
complete_backups() {
  local folder
  for folder in "$BACKUP_DIR"/[0-9]*T[0-9]*Z; do
    [[ -f $folder/SHA256SUMS ]] && echo "$folder"
  done
  return 0
}
