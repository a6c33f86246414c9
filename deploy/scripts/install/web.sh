#!/usr/bin/env bash
# nginx in front of the gateway, with a self-signed certificate until there is a real one.
# shellcheck disable=SC2034,SC2154 # install.sh and its parts share their variables
set -euo pipefail

CERTIFICATE=/etc/ssl/multi-agent-service

nginx_runs() { [[ -s /run/nginx.pid ]] && kill -0 "$(cat /run/nginx.pid)" 2>/dev/null; }

# site_for NAME: the release's site with this name; without IPv6 addresses on a machine that has none.
site_for() {
  local edits=(-e "s/your-domain\.com/$1/g")
  [[ -e /proc/net/if_inet6 ]] || edits+=(-e '/listen \[::\]:/d')
  sed "${edits[@]}" "$release/deploy/nginx/multi-agent-service.conf"
}

make_site() {
  local before=$changes
  folder /var/www/multi-agent-service root:root 755
  if [[ -e $CERTIFICATE/fullchain.pem && -e $CERTIFICATE/privkey.pem ]]; then
    say "there is a certificate in $CERTIFICATE"
  else
    run "$release/deploy/scripts/certificate.sh" self-signed "$1"
  fi
  if [[ -e $site ]]; then say "$site is kept as it is"; else put "$site" 0644 < <(site_for "$1"); fi
  [[ -z $site_link || $site_link -ef $site ]] || link "$site" "$site_link"
  # SELinux lets nginx speak to no other server, unless it is told so.
  if [[ $family == rhel && $(getsebool httpd_can_network_connect 2>/dev/null || true) != *on ]]; then
    if [[ -n $dry_run || $(getenforce 2>/dev/null || true) == Enforcing ]]; then run setsebool -P httpd_can_network_connect 1; fi
  fi
  if [[ -z $dry_run ]] && { ((changes > before)) || ! nginx_runs; }; then
    nginx -q -t 9>&- || die "nginx does not take its configuration: the words above say why"
    if nginx_runs; then run nginx -s reload; fi
  fi
  start_service nginx nginx_runs nginx
}
