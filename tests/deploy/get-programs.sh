#!/usr/bin/env bash
# Debian's programs that the deployment tests run: those that are missing are installed where this is root, else unpacked
# into the folder that is the first argument, which needs no rights. Does nothing where all are there.
set -euo pipefail

folder=$1
declare -A package=(
  [nginx]=nginx [prometheus]=prometheus [promtool]=prometheus [fail2ban-regex]=fail2ban
  [systemd-analyze]=systemd
  [shellcheck]=shellcheck [logrotate]=logrotate [debootstrap]=debootstrap
  [ufw]=ufw
)
# Only ever unpacked: nobody wants an SSH server on his machine for a test.
declare -A only_unpacked=([sshd]="openssh-server libwrap0")
export PATH="$PATH:/usr/sbin:/sbin:$folder/usr/bin:$folder/usr/sbin"
missing=() to_unpack=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
for program in "${!only_unpacked[@]}"; do
  read -ra packages <<<"${only_unpacked[$program]}"
  command -v "$program" >/dev/null || to_unpack+=("${packages[@]}")
done
if [ ${#missing[@]} -eq 0 ] && [ ${#to_unpack[@]} -eq 0 ]; then exit 0; fi

command -v apt-get >/dev/null || {
  echo "The deployment tests need ${missing[*]} ${to_unpack[*]}, and there is no apt-get to have them from" >&2
  exit 2
}
echo "Getting Debian's packages for the deployment tests: ${missing[*]} ${to_unpack[*]}"
if [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Nothing that is installed for a test is to be started as a service.
  [ ${#missing[@]} -eq 0 ] || RUNLEVEL=1 apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
else
  to_unpack+=("${missing[@]}")
fi
[ ${#to_unpack[@]} -eq 0 ] && exit 0
mkdir -p "$folder"
cd "$folder"
# root's apt would download as a user that may not write here, and says so.
apt-get download -qq -o APT::Sandbox::User=root "${to_unpack[@]}"
for file in *.deb; do
  dpkg -x "$file" .
  rm "$file"
done
