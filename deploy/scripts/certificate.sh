#!/usr/bin/env bash
# Puts a TLS certificate where the nginx site looks for it: a self-signed one for the first start, then Let's Encrypt's.
set -euo pipefail

CERT_DIR=${CERT_DIR:-/etc/ssl/multi-agent-service}
WEBROOT=${WEBROOT:-/var/www/multi-agent-service}
NGINX=${NGINX:-nginx}
CERTBOT=${CERTBOT:-certbot}
LIVE=${LIVE:-/etc/letsencrypt/live}
# What certbot runs after each renewal: by `current`, so that it is still there after an upgrade.
HOOK=${HOOK:-/opt/multi-agent-service/current/deploy/scripts/certificate.sh deployed}

usage() {
  cat <<END
Usage: certificate.sh self-signed NAME            a certificate of its own making, where there is none yet
       certificate.sh obtain NAME EMAIL [OPTION]  one from Let's Encrypt, renewed from then on; OPTION goes to certbot
       certificate.sh deployed                    what certbot calls after a renewal: take the certificate in use
       certificate.sh reload                      have nginx read its configuration anew, where that is in order

Places: CERT_DIR=$CERT_DIR WEBROOT=$WEBROOT NGINX="$NGINX" CERTBOT="$CERTBOT"
END
}

wrong_call() {
  usage >&2
  exit 2
}

fail() {
  echo "certificate.sh: $*" >&2
  exit 1
}

check_name() {
  [[ $1 =~ ^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$ ]] || fail "$1 is no host name"
}

# Each link is replaced in one step. nginx looks at them at a start or reload only.
point_to() {
  local file
  for file in fullchain.pem privkey.pem; do
    ln -sfn "$1/$file" "$CERT_DIR/$file.new"
    mv -fT "$CERT_DIR/$file.new" "$CERT_DIR/$file"
  done
}

self_signed() {
  check_name "$1"
  if [ -e "$CERT_DIR/fullchain.pem" ] && [ -e "$CERT_DIR/privkey.pem" ]; then
    echo "There is a certificate in $CERT_DIR already: nothing to do."
    return
  fi
  local made=$CERT_DIR/self-signed
  mkdir -p "$made" "$WEBROOT"
  # The key is never readable to others, not even for a moment; it is in place only once it is whole.
  local said
  said=$(umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj "/CN=$1" \
    -addext "subjectAltName=DNS:$1" -keyout "$made/privkey.pem.new" -out "$made/fullchain.pem.new" 2>&1) ||
    fail "openssl made no certificate: $said"
  mv "$made/privkey.pem.new" "$made/privkey.pem"
  mv "$made/fullchain.pem.new" "$made/fullchain.pem"
  point_to "$made"
  echo "A self-signed certificate for $1 is in $CERT_DIR: browsers warn of it until there is a real one (obtain)."
}

obtain() {
  local name=$1 email=$2
  shift 2
  check_name "$name"
  mkdir -p "$WEBROOT"
  # By the folder that nginx serves on port 80, not by certbot's nginx plugin, which rewrites the site.
  $CERTBOT certonly --webroot --webroot-path "$WEBROOT" --domain "$name" --email "$email" --agree-tos --no-eff-email \
    --non-interactive --keep-until-expiring --deploy-hook "$HOOK" "$@"
  # certbot calls the hook for what it has just been given; this is for one that was there already.
  if [ -e "$LIVE/$name" ]; then RENEWED_LINEAGE=$LIVE/$name deployed; fi
}

# certbot sets RENEWED_LINEAGE: the folder of the certificate that is new.
deployed() {
  local lineage=${RENEWED_LINEAGE:-} before
  [ -n "$lineage" ] || fail "RENEWED_LINEAGE is not set: this is for certbot to call"
  if [ ! -r "$lineage/fullchain.pem" ] || [ ! -r "$lineage/privkey.pem" ]; then
    fail "no certificate in $lineage"
  fi
  mkdir -p "$CERT_DIR"
  before=$(readlink "$CERT_DIR/fullchain.pem" || true)
  point_to "$lineage"
  if ! $NGINX -t 2>&1; then
    # Or the next restart of nginx would fail for it.
    if [ -n "$before" ]; then point_to "$(dirname "$before")"; fi
    fail "nginx does not take the certificate in $lineage: the one before stays"
  fi
  $NGINX -s reload || fail "nginx was not reloaded: does it run?"
  echo "nginx serves the certificate in $lineage."
}

reload() {
  # nginx that is running goes on with what it has where this fails.
  $NGINX -t 2>&1 || fail "nginx finds its configuration wrong, and was not reloaded"
  $NGINX -s reload || fail "nginx was not reloaded: does it run?"
}

case ${1:-} in
  -h | --help) usage ;;
  self-signed)
    [ $# -eq 2 ] || wrong_call
    self_signed "$2"
    ;;
  obtain)
    [ $# -ge 3 ] || wrong_call
    obtain "${@:2}"
    ;;
  deployed)
    [ $# -eq 1 ] || wrong_call
    deployed
    ;;
  reload)
    [ $# -eq 1 ] || wrong_call
    reload
    ;;
  *) wrong_call ;;
esac
