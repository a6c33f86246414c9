#!/usr/bin/env bash
# What differs between the Debian and the RHEL family: names of packages, places of files, how services are started.
# shellcheck disable=SC2034,SC2154 # install.sh and its parts share their variables
set -euo pipefail

# read_distribution: sets family, distribution and where the family keeps its files.
read_distribution() {
  local file=${OS_RELEASE:-/etc/os-release} ids
  [[ -r $file ]] || die "there is no $file: which distribution this is cannot be told"
  ids=$(sed -n 's/^ID\(_LIKE\)\{0,1\}=//p' "$file" | tr -d \"\' | tr '\n' ' ')
  distribution=$(sed -n 's/^PRETTY_NAME=//p' "$file" | tr -d \"\')
  case " $ids " in
    *" debian "* | *" ubuntu "*)
      family=debian
      packages=(ca-certificates curl openssl logrotate python3-venv supervisor)
      supervisor_conf=/etc/supervisor/supervisord.conf
      supervisor_files=/etc/supervisor/conf.d suffix=conf supervisor_service=supervisor
      site=/etc/nginx/sites-available/multi-agent-service.conf
      site_link=/etc/nginx/sites-enabled/multi-agent-service.conf
      [[ $use_nginx == no ]] || packages+=(nginx)
      [[ $own_database == no ]] || packages+=(postgresql)
      ;;
    *" rhel "* | *" fedora "* | *" centos "*)
      family=rhel
      packages=(ca-certificates openssl logrotate python3 supervisor)
      command -v curl >/dev/null || packages+=(curl)
      supervisor_conf=/etc/supervisord.conf
      supervisor_files=/etc/supervisord.d suffix=ini supervisor_service=supervisord
      site=/etc/nginx/conf.d/multi-agent-service.conf site_link=""
      [[ $use_nginx == no ]] || packages+=(nginx)
      [[ $own_database == no ]] || packages+=(postgresql-server postgresql)
      ;;
    *) die "$distribution is of neither family that this script knows (Debian and Ubuntu; RHEL and its relatives)" ;;
  esac
  if [[ $needs_git == yes ]]; then packages+=(git); fi
}

has_package() {
  case $family in
    debian) [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]] ;;
    rhel) rpm --quiet -q "$1" 2>/dev/null ;;
  esac
}

# offers_package NAME: the distribution's archive, as it is known here, has it.
offers_package() {
  case $family in
    debian) apt-cache policy "$1" 2>/dev/null | grep -q 'Candidate: [^(]' ;;
    rhel) dnf --quiet list "$1" >/dev/null 2>&1 ;;
  esac
}

install_packages() {
  local name missing=()
  for name in "$@"; do
    has_package "$name" || missing+=("$name")
  done
  [[ ${#missing[@]} -gt 0 ]] || { say "all there: $*"; return 0; }
  if [[ $family == debian ]]; then
    # Where an installation of packages was interrupted, nothing else can be installed.
    [[ -z $(dpkg --audit 2>/dev/null) ]] || run dpkg --configure -a
    run apt-get --quiet=2 -o DPkg::Lock::Timeout=300 update
    run env DEBIAN_FRONTEND=noninteractive apt-get --quiet=2 --yes --no-install-recommends \
      -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 install "${missing[@]}"
    return
  fi
  if [[ " ${missing[*]} " == *" supervisor "* ]] && ! has_package epel-release; then
    # Rocky, Alma and CentOS have it themselves; RHEL has it from Fedora's site.
    local epel=epel-release
    [[ $distribution != "Red Hat"* ]] ||
      epel=https://dl.fedoraproject.org/pub/epel/epel-release-latest-$(rpm --eval '%{rhel}' 2>/dev/null || echo 9).noarch.rpm
    run dnf --quiet --assumeyes install "$epel" || warn "EPEL cannot be had"
    if [[ -z $dry_run ]] && ! offers_package supervisor; then
      warn "this distribution has no supervisor: it will be PyPI's, in $APP_DIR/tools/supervisor"
      mapfile -t missing < <(printf '%s\n' "${missing[@]}" | grep -vx supervisor)
    fi
  fi
  [[ ${#missing[@]} -eq 0 ]] || run dnf --quiet --assumeyes install "${missing[@]}"
}

# Where the distribution has no Supervisor: PyPI's, with the configuration and the unit that a package would bring.
supervisor_from_pypi() {
  local tools=$APP_DIR/tools/supervisor
  if has_package supervisor || [[ -n $dry_run ]]; then return 0; fi
  if ! "$tools/bin/supervisord" --version >/dev/null 2>&1; then
    run rm -rf "$tools"
    run "$1" -m venv "$tools"
    run "$tools/bin/python" -m pip install --quiet --disable-pip-version-check supervisor
  fi
  link "$tools/bin/supervisord" /usr/local/bin/supervisord
  link "$tools/bin/supervisorctl" /usr/local/bin/supervisorctl
  folder "$supervisor_files" root:root 755
  put "$supervisor_conf" 0644 <<CONF
[unix_http_server]
file=/run/supervisor.sock
chmod=0700
[supervisord]
logfile=/var/log/supervisord.log
pidfile=/run/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix:///run/supervisor.sock
[include]
files = $supervisor_files/*.$suffix
CONF
  put "/etc/systemd/system/$supervisor_service.service" 0644 <<UNIT
[Unit]
Description=Supervisor
After=network.target

[Service]
ExecStart=$tools/bin/supervisord --nodaemon -c $supervisor_conf
ExecReload=$tools/bin/supervisorctl reload
KillMode=process
Restart=on-failure

[Install]
WantedBy=multi-user.target
UNIT
}

has_systemd() { [[ -d /run/systemd/system ]]; }

# start_service NAME RUNNING START…: RUNNING is a function that says whether it runs; START is for where systemd is not.
start_service() {
  local name=$1 running=$2
  shift 2
  if has_systemd || [[ -n $dry_run && $family == rhel ]]; then
    if systemctl is-enabled --quiet "$name" 2>/dev/null && "$running"; then say "$name runs"; return 0; fi
    run systemctl enable --now --quiet "$name"
  elif "$running"; then
    say "$name runs"
  else
    say "there is no systemd here: $name is started directly, and is not started again with the machine"
    run "$@"
  fi
  [[ -n $dry_run ]] || wait_for 60 "$running" || die "$name does not run: its log says why. Then run this again"
}
