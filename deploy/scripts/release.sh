#!/usr/bin/env bash
# Make one release below /opt/multi-agent-service/releases: code, its own .venv, and the link to .env. Starts nothing.
set -euo pipefail

APP_DIR=${APP_DIR:-/opt/multi-agent-service}
source_of="" ref="" work=""

usage() {
  cat <<'TEXT'
usage: release.sh --source DIR|TARBALL|GIT-URL [--ref REF]

Prints the folder of the new release on its last line. Of a folder that is a Git checkout, it takes what is committed
(HEAD, or REF); of any other folder all but .git, .venv, .tools, .env, data, logs and reports. A release has its name
only once it is complete.

Exit status: 0 made, 1 failed, 2 a wrong call.
Environment: APP_DIR, UV (the command; default: APP_DIR/tools/uv/bin/uv, else uv), UV_PYTHON (the interpreter to use;
default: that of the current release), UV_CACHE_DIR (default: APP_DIR/tools/cache).
TEXT
}

say() { printf 'release: %s\n' "$*" >&2; }
die() { say "$1"; exit "${2:-1}"; }

read_arguments() {
  while (($#)); do
    case $1 in
      --source | --ref)
        (($# > 1)) || die "$1 needs a value: see --help" 2
        if [[ $1 == --source ]]; then source_of=$2; else ref=$2; fi
        shift
        ;;
      --help) usage; exit 0 ;;
      *) die "there is no $1: see --help" 2 ;;
    esac
    shift
  done
  [[ -n $source_of ]] || die "give --source: see --help" 2
}

# unpack FOLDER: a tar stream, as files of this user's, whatever the archive says of owners.
unpack() { tar -C "$1" --no-same-owner --no-same-permissions -xf -; }

# archive CHECKOUT FOLDER REVISION: put what is committed there, and print its short commit.
archive() {
  local commit
  # The checkout may be another user's: reading its commits runs nothing of it.
  local git=(git -c safe.directory='*' -C "$1")
  commit=$("${git[@]}" rev-parse --verify --quiet --short=12 "$3^{commit}") || return 1
  "${git[@]}" archive "$commit" | unpack "$2" || die "cannot read $commit of $1"
  printf '%s\n' "$commit"
}

# fetch FOLDER: put the code there, and print its commit, or "local".
fetch() {
  local into=$1
  if [[ -e $source_of/.git ]]; then
    if [[ -z $ref && -n $(git -c safe.directory='*' -C "$source_of" status --porcelain) ]]; then
      say "$source_of has changes that are not committed: they are left out"
    fi
    archive "$source_of" "$into" "${ref:-HEAD}" || die "Git finds no ${ref:-HEAD} in $source_of"
    return
  fi
  [[ -z $ref || ! -e $source_of ]] || die "$source_of is no Git checkout: it has no $ref" 2
  if [[ -d $source_of ]]; then
    tar -C "$source_of" --exclude=./.git --exclude=./.venv --exclude=./.tools --exclude=./.env --exclude=./data \
      --exclude=./logs --exclude=./reports --exclude=__pycache__ -cf - . | unpack "$into" ||
      die "cannot read $source_of"
    echo local
  elif [[ -f $source_of ]]; then
    tar --no-same-owner --no-same-permissions -C "$into" -xf "$source_of" || die "$source_of is no tarball"
    unwrap "$into"
    echo local
  else
    git clone --quiet "$source_of" "$work/clone" || die "cannot clone $source_of"
    archive "$work/clone" "$into" "origin/${ref:-HEAD}" || archive "$work/clone" "$into" "$ref" ||
      die "there is no $ref in $source_of"
  fi
}

# unwrap FOLDER: a tarball often has all in one folder.
unwrap() {
  local entries
  mapfile -t entries < <(find "$1" -mindepth 1 -maxdepth 1)
  if [[ ${#entries[@]} == 1 && -d ${entries[0]} ]]; then
    find "${entries[0]}" -mindepth 1 -maxdepth 1 -exec mv -t "$1" {} +
    rmdir "${entries[0]}"
  fi
}

# install_packages FOLDER: the locked packages, in an environment that bears being moved.
install_packages() {
  local uv=${UV:-$APP_DIR/tools/uv/bin/uv}
  command -v "$uv" >/dev/null || uv=$(command -v uv) || die "there is no uv in $APP_DIR/tools: install.sh puts it there"
  local python=${UV_PYTHON:-}
  if [[ -z $python && -e $APP_DIR/current/.venv/bin/python ]]; then
    python=$(readlink -f "$APP_DIR/current/.venv/bin/python")
  fi
  (
    cd "$1"
    unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT UV_PYTHON
    # On the releases' own file system, so that what they have in common is there once.
    export UV_CACHE_DIR=${UV_CACHE_DIR:-$APP_DIR/tools/cache}
    export UV_PYTHON_INSTALL_DIR=$APP_DIR/tools/python UV_PYTHON_DOWNLOADS=never
    # Compiled now, for the service may not write here.
    "$uv" venv --quiet --relocatable ${python:+--python "$python"} .venv &&
      "$uv" sync --quiet --frozen --no-dev --compile-bytecode &&
      ./.venv/bin/python -m compileall -q gateway worker shared
  ) >&2
}

main() {
  local commit release code
  read_arguments "$@"
  umask 022
  mkdir -p "$APP_DIR/releases"
  APP_DIR=$(cd -P "$APP_DIR" && pwd)
  exec 8>"$APP_DIR/releases/.lock"
  flock --wait 10 8 || die "another release is being made"
  rm -rf "$APP_DIR"/releases/.incoming-* # of one that was killed
  work=$(mktemp -d "$APP_DIR/releases/.incoming-XXXXXX")
  trap 'rm -rf "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM HUP
  code=$work/code
  mkdir "$code"
  commit=$(fetch "$code")
  [[ -f $code/pyproject.toml && -f $code/uv.lock && -d $code/gateway ]] ||
    die "$source_of is not this project: it has no gateway, or no uv.lock"
  # Whatever umask it was written with: the service's user reads it.
  chmod -R u+rwX,go+rX,go-w "$code"
  say "installing the packages of $commit"
  install_packages "$code" || die "the packages of $source_of cannot be installed"
  ln -s ../../.env "$code/.env"
  release=$APP_DIR/releases/$(date -u +%Y%m%d%H%M%S)-$commit
  [[ ! -e $release ]] || die "there is $release already: try again in a second"
  mv -T "$code" "$release"
  printf '%s\n' "$release"
}

main "$@"
