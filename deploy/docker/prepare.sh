#!/usr/bin/env bash
# Makes what docker-compose.yml needs before the first start: secrets in .env, folders, a certificate. Runs again at will:
# what is there already stays as it is.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: deploy/docker/prepare.sh DOMAIN

Puts into the project's folder, where it is not there yet, and gives to that folder's owner:
  .env          DOMAIN, and random SECRET_KEY, REDIS_PASSWORD, POSTGRES_PASSWORD and GRAFANA_PASSWORD; for its owner only
  logs/         for the user with the id 1000, whom the containers run as (run this as root, or as that user)
  config/tls/   fullchain.pem and privkey.pem: self-signed for DOMAIN, until you put your own there
  config/acme/  where certbot --webroot leaves its answers
  config/keys/  for API keys that other containers need
TEXT
}

die() {
  echo "prepare.sh: $1" >&2
  exit "${2:-1}"
}

case ${1:-} in
  -h | --help)
    usage
    exit
    ;;
esac
[ $# -eq 1 ] || {
  usage >&2
  exit 2
}
domain=$1
# Names only: it goes into nginx's configuration.
[[ $domain =~ ^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$ ]] || die "$domain is no host name in lower case" 2
command -v openssl >/dev/null || die "openssl is needed, and is not installed"

# The user that the Dockerfile makes.
readonly CONTAINER_USER=1000
umask 077
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

give_away() { # give_away PATH…: Compose reads .env as whoever runs it, and what sudo makes would be root's
  if [ "$(id -u)" -eq 0 ]; then chown --no-dereference --reference=. "$@"; fi
}

add() { # add NAME VALUE: unless .env has a value of that name
  grep -q "^$1=." .env || printf '%s=%s\n' "$1" "$2" >>.env
}

make_folder() { # make_folder FOLDER
  [ -d "$1" ] || {
    mkdir "$1"
    give_away "$1"
  }
}

[ -e .env ] || {
  touch .env
  give_away .env
}
chmod 0600 .env
# A last line without its end would swallow the first that is added.
[ -z "$(tail -c 1 .env)" ] || echo >>.env
add DOMAIN "$domain"
for name in SECRET_KEY REDIS_PASSWORD POSTGRES_PASSWORD GRAFANA_PASSWORD; do
  add "$name" "$(openssl rand -hex 32)"
done
grep -qx "DOMAIN=$domain" .env || die ".env has another DOMAIN: change it there, and remove config/tls for a new certificate"

mkdir -p logs
make_folder config/keys
chmod 0750 logs

# Read by nginx in its container, whoever that is there.
umask 022
make_folder config/acme
make_folder config/tls
umask 077
if [ ! -e config/tls/fullchain.pem ]; then
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$domain" \
    -addext "subjectAltName=DNS:$domain" -keyout config/tls/privkey.pem.new -out config/tls/fullchain.pem.new 2>/dev/null
  give_away config/tls/privkey.pem.new config/tls/fullchain.pem.new
  mv config/tls/privkey.pem.new config/tls/privkey.pem
  mv config/tls/fullchain.pem.new config/tls/fullchain.pem
fi
if [ "$(id -u)" -eq 0 ]; then chown "$CONTAINER_USER:$CONTAINER_USER" logs; fi
[ "$(stat -c %u logs)" -eq "$CONTAINER_USER" ] ||
  die "logs/ does not belong to the user with the id $CONTAINER_USER: run  sudo chown $CONTAINER_USER:$CONTAINER_USER logs"
echo "Prepared for $domain. Next: docker compose up -d --build --wait"
