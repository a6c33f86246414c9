#!/usr/bin/env bash
# Opens this machine (RHEL family) for SSH, HTTP and HTTPS and for nothing else. Can be run again at any time.
set -euo pipefail

dry_run=
ssh_ports=()
zone=public
FIREWALL_CMD=${FIREWALL_CMD:-firewall-cmd}
FIREWALL_OFFLINE_CMD=${FIREWALL_OFFLINE_CMD:-firewall-offline-cmd}

usage() {
  cat <<END
Usage: firewalld.sh [--dry-run] [--zone ZONE] [--ssh-port PORT]...

Allows SSH, 80 and 443 in the zone (public), and takes Cockpit (9090) out of it, which RHEL opens by itself. Other rules
stay, and so does dhcpv6-client: without it a machine may lose its IPv6 address. --dry-run prints the commands and changes
nothing. SSH is not rate-limited here: firewalld counts all addresses together, so that a stranger could use up your turn.
fail2ban's sshd jail does that by address.
END
}

fail() {
  echo "firewalld.sh: $*" >&2
  exit 1
}

wrong_call() {
  echo "firewalld.sh: $*" >&2
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
    --zone)
      [[ ${2:-} =~ ^[A-Za-z0-9_-]+$ ]] || wrong_call "--zone needs a name"
      zone=$2
      shift
      ;;
    --ssh-port)
      [[ ${2:-} =~ ^[0-9]{1,5}$ ]] || wrong_call "--ssh-port needs a number"
      ssh_ports+=("$2")
      shift
      ;;
    *) wrong_call "unknown argument: $1" ;;
  esac
  shift
done

if [ -z "$dry_run" ] && [ "$(id -u)" -ne 0 ]; then fail "only root can do this: sudo $0"; fi
find_ssh_ports
refuse_to_lock_out

# While firewalld does not run, its files are changed first: it starts with SSH open.
read -ra change <<<"$FIREWALL_OFFLINE_CMD --zone=$zone"
running=
if $FIREWALL_CMD --state >/dev/null 2>&1; then
  running=yes
  read -ra change <<<"$FIREWALL_CMD --permanent --zone=$zone"
fi

for port in "${ssh_ports[@]}"; do
  if [ "$port" = 22 ]; then run "${change[@]}" --add-service=ssh; else run "${change[@]}" "--add-port=$port/tcp"; fi
done
run "${change[@]}" --add-service=http
run "${change[@]}" --add-service=https
if [ -n "$dry_run" ] || "${change[@]}" --query-service=cockpit >/dev/null 2>&1; then
  if [ -n "$running" ] || [ -n "$dry_run" ]; then
    run "${change[@]}" --remove-service=cockpit
  else
    run "${change[@]}" --remove-service-from-zone=cockpit
  fi
fi
if [ -n "$running" ]; then
  run "$FIREWALL_CMD" --reload
else
  run systemctl enable --now firewalld
fi
