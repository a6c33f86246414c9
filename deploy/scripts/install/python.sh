#!/usr/bin/env bash
# uv, and a Python for the service: 3.12 or newer, and the distribution's own 3.11 only where no newer one can be had.
# shellcheck disable=SC2034,SC2154 # install.sh and its parts share their variables
set -euo pipefail

# uv comes from its package on PyPI, which pip checks, and not by `curl | sh`, which nobody does.
install_uv() {
  local tools=$APP_DIR/tools/uv
  if "$tools/bin/uv" --version >/dev/null 2>&1; then
    say "all there: $("$tools/bin/uv" --version)"
    return 0
  fi
  run rm -rf "$tools"
  run python3 -m venv "$tools"
  run "$tools/bin/python" -m pip install --quiet --disable-pip-version-check uv
}

# is_python COMMAND MINOR: it is a Python 3 of that minor version or a newer one.
is_python() {
  command -v "$1" >/dev/null && "$1" -c "import sys; sys.exit(sys.version_info < (3, $2))" 2>/dev/null
}

# readable_python COMMAND: the service's user may run it; one below /root, for instance, it may not.
readable_python() {
  [[ -n $dry_run ]] || setpriv --reuid="$SERVICE_USER" --regid="$SERVICE_USER" --clear-groups "$1" -c "" 2>/dev/null
}

# choose_python ASKED: set `python` to the interpreter that releases are made with.
choose_python() {
  local name
  python=""
  if [[ -n $1 ]]; then
    is_python "$1" 11 || die "$1 is no Python 3.11 or newer"
    python=$(command -v "$1")
    readable_python "$python" || die "the user $SERVICE_USER may not run $python: install Python where all can"
    return 0
  fi
  for name in python3.12 python3.13 python3.14 python3; do
    if is_python "$name" 12 && readable_python "$(command -v "$name")"; then
      python=$(command -v "$name")
      return 0
    fi
  done
  if offers_package python3.12; then
    install_packages python3.12
    python=/usr/bin/python3.12
    return 0
  fi
  say "neither the PATH nor the distribution has Python 3.12 or newer"
  fetch_python && return 0
  is_python python3 11 || die "no Python 3.12 can be had, and python3 is older than 3.11: install one, and name it with --python"
  python=$(command -v python3)
  warn "Python 3.12 cannot be had from here: $("$python" --version) is used, which works as well"
}

# fetch_python: uv's own build of Python 3.12, for all to read.
fetch_python() {
  local uv=("$APP_DIR/tools/uv/bin/uv" --no-config python)
  export UV_PYTHON_INSTALL_DIR=$APP_DIR/tools/python
  changed "\$ ${uv[*]} install 3.12 (into $UV_PYTHON_INSTALL_DIR)" || { python=$UV_PYTHON_INSTALL_DIR/…/bin/python3.12; return 0; }
  UV_HTTP_TIMEOUT=60 UV_HTTP_RETRIES=1 "${uv[@]}" install --quiet --no-bin 3.12 9>&- || return 1
  python=$("${uv[@]}" find --managed-python 3.12) && readable_python "$python"
}
