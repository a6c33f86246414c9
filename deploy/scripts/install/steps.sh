#!/usr/bin/env bash
# How install.sh does things: each command is said first, a dry run stops there, and what is right already is left alone.
# shellcheck disable=SC2034,SC2154 # install.sh and its parts share their variables
set -euo pipefail

dry_run=${dry_run:-}
changes=0

step() { printf '\n== %s\n' "$*"; }
say() { printf '   %s\n' "$*"; }
warn() { printf 'install: %s\n' "$*" >&2; }
die() { warn "$1"; exit "${2:-1}"; }

# changed WORDS: count a change; true where it is to be made.
changed() {
  changes=$((changes + 1))
  say "$*"
  [[ -z $dry_run ]]
}

# run COMMAND…: what changes the machine. Never with a secret in it.
run() {
  if changed "\$ $*"; then "$@" 9>&-; fi
}

# folder PATH OWNER:GROUP MODE: make it, or put its owner and mode right.
folder() {
  [[ ! -L $1 ]] || die "$1 is a link: a folder is expected there"
  if [[ -d $1 && $(stat -c '%U:%G %a' "$1") == "$2 $3" ]]; then return 0; fi
  run install -d -o "${2%:*}" -g "${2#*:}" -m "$3" "$1"
}

# link TARGET PATH: in one step.
link() {
  if [[ $(readlink "$2" || true) == "$1" ]]; then return 0; fi
  if changed "link $2 -> $1"; then
    ln -sfn "$1" "$2.new"
    mv -T "$2.new" "$2"
  fi
}

# put FILE MODE: a file of root's from standard input. One that is there is kept, for it may have been changed by hand.
put() {
  local content
  content=$(cat && echo x)
  content=${content%x}
  if [[ -e $1 ]]; then
    [[ $(cat "$1" && echo x) == "${content}x" ]] || say "$1 is not what this release has: it is left as it is"
    return 0
  fi
  if changed "write $1 (mode $2)"; then
    (umask 077 && printf '%s' "$content" >"$1.new")
    chmod "$2" "$1.new"
    mv -T "$1.new" "$1"
  fi
}

# as_service COMMAND…: as the service's user, in the current release, with nothing of this shell's environment.
as_service() {
  (
    cd "$APP_DIR/current"
    exec env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$DATA" LANG=C.UTF-8 \
      setpriv --reuid="$SERVICE_USER" --regid="$SERVICE_USER" --init-groups "$@" 9>&-
  )
}

# wait_for SECONDS COMMAND…: until it succeeds; false where it never does.
wait_for() {
  local deadline=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < deadline)) || return 1
    sleep 0.3
  done
}
