"""The forms of `REDIS_URL`: one server, or the sentinels that know which server is the master now."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SERVER_FORM = "redis://user:password@host:6379/0"
SENTINEL_FORM = "redis+sentinel://user:password@host:26379,host:26379/name/0"
SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
SENTINEL_PORT = 26379
_TLS_OPTIONS = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"})


@dataclass(frozen=True, slots=True)
class SentinelAddress:
    """Where the sentinels are, and how they and the servers are logged in to.

    `login` and `sentinel_login` are redis-py's `username` and `password`, `tls` its `ssl_…` options, None without TLS.
    """

    sentinels: tuple[tuple[str, int], ...]
    name: str
    db: int = 0
    login: dict[str, str] = field(default_factory=dict, repr=False)
    sentinel_login: dict[str, str] = field(default_factory=dict, repr=False)
    tls: dict[str, Any] | None = None


def check_redis_url(url: str) -> None:
    """Raise `ValueError` for a URL that no client could use. The message never holds a piece of the URL: a password."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:
        raise ValueError(f"it has the form {SERVER_FORM}") from None
    if scheme in SENTINEL_SCHEMES:
        parse_sentinel_url(url)
    elif scheme in {"redis", "rediss", "unix"}:
        try:
            _ = urlsplit(url).port  # raises where it is none
        except ValueError:
            raise ValueError(f"it has the form {SERVER_FORM}") from None
    else:
        raise ValueError(
            "must start with redis://, rediss:// or unix://, or with redis+sentinel:// or rediss+sentinel://"
        )


def is_sentinel_url(url: str) -> bool:
    """Whether this URL names sentinels rather than a server."""
    return url.partition("://")[0].lower() in SENTINEL_SCHEMES


def parse_sentinel_url(url: str) -> SentinelAddress:
    """`redis[s]+sentinel://[user:password@]host[:port][,host[:port]…]/name[/db][?sentinel_password=…]`, taken apart.

    The sentinels are logged in to with `sentinel_user` and `sentinel_password`, not at all without them. Raises
    `ValueError`.
    """
    try:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, strict_parsing=True) if parts.query else [])
        userinfo, _, hosts = parts.netloc.rpartition("@")
        user, _, password = userinfo.partition(":")
        sentinels = tuple(_host_and_port(host) for host in hosts.split(","))
        path = [unquote(part) for part in parts.path.removeprefix("/").split("/")]
        name, db = path[0], int(path[1]) if len(path) > 1 and path[1] else 0
    except ValueError:
        raise ValueError(f"it has the form {SENTINEL_FORM}") from None
    if not name or len(path) > 2 or db < 0:
        raise ValueError(f"the name of the master, and no more than a database, follow the hosts: {SENTINEL_FORM}")
    tls_options = {key: value for key, value in options.items() if key in _TLS_OPTIONS}
    tls = parts.scheme == "rediss+sentinel"
    if options.keys() - _TLS_OPTIONS - {"sentinel_user", "sentinel_password"} or (tls_options and not tls):
        known = "sentinel_user, sentinel_password and, with rediss+sentinel://, " + ", ".join(sorted(_TLS_OPTIONS))
        raise ValueError(f"the options that it takes are {known}")
    return SentinelAddress(
        sentinels=sentinels,
        name=name,
        db=db,
        login=_login(unquote(user), unquote(password)),
        sentinel_login=_login(options.get("sentinel_user", ""), options.get("sentinel_password", "")),
        tls=_tls(tls_options) if tls else None,
    )


def shown_address(url: str) -> str:
    """The part of a Redis URL that may be shown: hosts and ports, or the path of a socket."""
    if is_sentinel_url(url):
        known = parse_sentinel_url(url)
        return f"the master {known.name} of {', '.join(f'{host}:{port}' for host, port in known.sentinels)}"
    parts = urlsplit(url)
    return parts.path if parts.scheme == "unix" else f"{parts.hostname}:{parts.port or 6379}"


def redis_place(url: str) -> tuple[int, str]:
    """The number of the database, and the path of the server's socket, empty where it has none."""
    if is_sentinel_url(url):
        return parse_sentinel_url(url).db, ""
    parts = urlsplit(url)
    path = parts.path if parts.scheme == "unix" else ""
    number = dict(parse_qsl(parts.query)).get("db") or ("" if path else parts.path.strip("/"))
    return int(number) if number.isdecimal() else 0, unquote(path)


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")  # knows [::1]:26379
    if not parts.hostname or parts.username is not None:
        raise ValueError
    return parts.hostname, parts.port or SENTINEL_PORT


def _login(user: str, password: str) -> dict[str, str]:
    return {name: value for name, value in (("username", user), ("password", password)) if value}


def _tls(options: dict[str, str]) -> dict[str, Any]:
    checked = options.get("ssl_check_hostname")
    if checked is None:
        return {**options}
    return {**options, "ssl_check_hostname": checked.lower() in {"1", "true", "yes", "on"}}
