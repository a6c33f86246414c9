#!/usr/bin/env bash
# Opens this machine (Debian, Ubuntu) for SSH, HTTP and HTTPS and for nothing else. Can be run again at any time.
set -euo pipefail

dry_run=
ssh_ports=()

usage() {
  cat <<END
Usage: ufw.sh [--dry-run] [--ssh-port PORT]...

Allows SSH (six new connections in 30 s from one address), 80 and 443, refuses all else that comes in, and enables ufw.
The ports of SSH are those of the sshd that runs here, unless --ssh-port names them. Rules that are there already stay.
--dry-run prints the commands and changes nothing.
END
}

fail() {
  echo "ufw.sh: $*" >&2
  exit 1
}

wrong_call() {
  echo "ufw.sh: $*" >&2
  usage >&2
  exit 2
}

run() {
  echo "+ $*"
  if [ -z "$dry_run" ]; then "$@"; fi
}

# What sshd says itself, for it may listen elsewhere than on 22.
find_ssh_ports() {
  if [ ${#ssh_ports[@]} -eq 0 ]; then
    mapfile -t ssh_ports < <("${SSHD:-sshd}" -T 2>/dev/null | awk '$1 == "port" { print $2 }')
  fi
  if [ ${#ssh_ports[@]} -eq 0 ]; then ssh_ports=(22); fi
}

# SSH_CONNECTION: the client's address and port, and ours.
refuse_to_lock_out() {
  local port
  [ -n "${SSH_CONNECTION:-}" ] || return 0
  for port in "${ssh_ports[@]}"; do
    if [ "$port" = "${SSH_CONNECTION##* }" ]; then return 0; fi
  done
  fail "you are connected by port ${SSH_CONNECTION##* }, which would be closed: give --ssh-port ${SSH_CONNECTION##* }"
}

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      usage
      exit 0
      ;;
    --dry-run) dry_run=yes ;;
    --ssh-port)
      [[ ${2:-} =~ ^[0-9]{1,5}$ ]] || wrong_call "--ssh-port needs a number"
      ssh_ports+=("$2")
      shift
      ;;
    *) wrong_call "unknown argument: $1" ;;
  esac
  shift
done

if [ -z "$dry_run" ]; then
  [ "$(id -u)" -eq 0 ] || fail "only root can do this: sudo $0"
  command -v ufw >/dev/null || fail "ufw is missing: apt-get install ufw"
fi
find_ssh_ports
refuse_to_lock_out

# SSH comes first: whatever stops this script, there is a way back in.
for port in "${ssh_ports[@]}"; do
  run ufw limit "$port/tcp" comment SSH
done
run ufw allow 80/tcp comment "HTTP: redirect, certbot"
run ufw allow 443/tcp comment HTTPS
run ufw default deny incoming
run ufw default allow outgoing
run ufw --force enable
if [ -z "$dry_run" ]; then
  echo "Done. Rules of your own have stayed; what is open now:"
  ufw status
fi
