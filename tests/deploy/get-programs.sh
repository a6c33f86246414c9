#!/usr/bin/env bash
# Debian's programs that the deployment tests run: those that are missing are installed where this is root, else unpacked
# into the folder that is the first argument, which needs no rights. Does nothing where all are there.
set -euo pipefail

folder=$1
declare -A package=(
  [nginx]=nginx [prometheus]=prometheus [promtool]=prometheus [fail2ban-regex]=fail2ban
  [systemd-analyze]=systemd
  [shellcheck]=shellcheck [logrotate]=logrotate [debootstrap]=debootstrap
)
export PATH="$PATH:/usr/sbin:/sbin:$folder/usr/bin:$folder/usr/sbin"
missing=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0

command -v apt-get >/dev/null || {
  echo "The deployment tests need ${missing[*]}, and there is no apt-get to have them from" >&2
  exit 2
}
echo "Getting Debian's packages for the deployment tests: ${missing[*]}"
if [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Nothing that is installed for a test is to be started as a service.
  RUNLEVEL=1 apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
else
  mkdir -p "$folder"
  (cd "$folder" && apt-get download -qq "${missing[@]}" && for file in *.deb; do dpkg -x "$file" . && rm "$file"; done)
fi
