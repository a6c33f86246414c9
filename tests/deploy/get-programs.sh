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
# Younger than a stable Debian's, from its next release; unpacked into a folder with the libraries they bring.
next=forky
next_programs="docker-compose kustomize nginx libc6 libcrypt1 libpcre2-8-0 libssl3t64 zlib1g"
export PATH="$PATH:/usr/sbin:/sbin:$folder/usr/bin:$folder/usr/sbin"
missing=() to_unpack=()
for program in "${!package[@]}"; do
  command -v "$program" >/dev/null || missing+=("${package[$program]}")
done
for program in "${!only_unpacked[@]}"; do
  read -ra packages <<<"${only_unpacked[$program]}"
  command -v "$program" >/dev/null || to_unpack+=("${packages[@]}")
done

unpack() { # unpack FOLDER PACKAGE…: from where apt_options lead
  mkdir -p "$1"
  (
    cd "$1"
    shift
    # root's apt would download as a user that may not write here, and says so.
    apt-get download -qq -o APT::Sandbox::User=root "${apt_options[@]}" "$@"
    for file in *.deb; do
      dpkg -x "$file" .
      rm "$file"
    done
  )
}

unpack_next() { # with lists of packages of its own: this machine's stay as they are
  local lists packages apt_options
  lists=$(mktemp -d)
  mkdir "$lists/state"
  echo "deb http://deb.debian.org/debian $next main" >"$lists/sources.list"
  apt_options=(-o "Dir::Etc::SourceList=$lists/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$lists/state"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none)
  apt-get update -qq -o APT::Sandbox::User=root "${apt_options[@]}"
  read -ra packages <<<"$next_programs"
  rm -rf "$folder/$next.new"
  unpack "$folder/$next.new" "${packages[@]}"
  mv "$folder/$next.new" "$folder/$next"
  rm -r "$lists"
}

if [ ${#missing[@]} -eq 0 ] && [ ${#to_unpack[@]} -eq 0 ] && [ -d "$folder/$next" ]; then exit 0; fi
command -v apt-get >/dev/null || {
  echo "The deployment tests need ${missing[*]} ${to_unpack[*]} $next_programs, and there is no apt-get to have them from" >&2
  exit 2
}
echo "Getting Debian's packages for the deployment tests: ${missing[*]} ${to_unpack[*]}"
if [ ! -d "$folder/$next" ]; then unpack_next; fi
if [ ${#missing[@]} -eq 0 ] && [ ${#to_unpack[@]} -eq 0 ]; then exit 0; fi

if [ "$(id -u)" -eq 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  # Nothing that is installed for a test is to be started as a service.
  [ ${#missing[@]} -eq 0 ] || RUNLEVEL=1 apt-get install -qq --yes --no-install-recommends "${missing[@]}" >/dev/null
else
  to_unpack+=("${missing[@]}")
fi
apt_options=()
[ ${#to_unpack[@]} -eq 0 ] || unpack "$folder" "${to_unpack[@]}"
