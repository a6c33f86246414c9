"""What the model has: deliveries, hosts and addresses, as they must stand and as they are found."""

from __future__ import annotations

from dataclasses import dataclass

from tests.store_dump import Dump, Record

HOSTS = {
    "https://one.example/a": "https://one.example:443",
    "https://one.example/b": "https://one.example:443",
    "https://two.example:8443/": "https://two.example:8443",
    "http://two.example/": "http://two.example:80",
}  # by URL


@dataclass
class Delivery:
    """One delivery; all times are in ms. Where it is: exactly one of `due`, `lease` and `kept_until` is a time."""

    target: str  # an endpoint's id, or 'job'
    type: str
    url: str
    host: str
    created_at: int
    changed_at: int
    job: str = ""  # a ref
    status: str = "pending"
    detail: str = ""
    next_at: int = 0  # what clients are told; the same as `due`, or of the try that is under way
    due: int = 0
    lease: int = 0
    kept_until: int = 0
    sender: str = ""
    attempt: int = 0
    step: int = 0
    tries: int = 0
    body: str = ""
    record: str = ""  # the round and status of the record that is kept, until there is a body
    output: str = ""
    secret: str = ""
    succeeded: bool = False


@dataclass
class Host:
    """How a host is; a new one is one of which nothing is known."""

    silent: int = 0
    pause: int = 0
    paused_until: int = 0
    limit: int = 0


@dataclass
class Health:
    """Of an address."""

    failing_since: int = 0
    failed_at: int = 0
    disabled_at: int = 0
    why: str = ""


@dataclass
class Address(Health):
    """A URL that jobs name, which fails or is disabled."""

    url: str = ""
    kept_until: int = 0


@dataclass
class Endpoint(Health):
    """A registered endpoint. `events` are separated by commas, or '*'."""

    url: str = ""
    events: str = "*"
    secret: str = ""
    old_secret: str = ""
    old_until: int = 0
    secret_changed_at: int = 0
    created_at: int = 0


def _number(record: Record, name: str) -> int:
    return int(record.get(name, 0))


def _health(record: Record) -> dict[str, int | str]:
    times = {name: _number(record, name) for name in ("failing_since", "failed_at", "disabled_at")}
    return {**times, "why": record.get("disabled_why", "")}


def deliveries_of(dump: Dump) -> dict[str, Delivery]:
    leases, expiry = dump.zsets["deliveries_leases"].get("", {}), dump.zsets["deliveries_expiry"].get("", {})
    found = {}
    for dref, fields in dump.hashes["delivery"].items():
        line = dump.zsets["host_line"].get(fields["host"], {})
        record = dump.hashes["delivery_record"].get(dref)
        numbers = {name: _number(fields, name) for name in ("created_at", "changed_at", "next_at", "attempt", "step")}
        texts = {name: fields.get(name, "") for name in ("target", "type", "url", "host", "job", "status", "detail")}
        found[dref] = Delivery(
            **texts, **numbers,  # type: ignore[arg-type]
            due=int(line.get(dref, 0)), lease=int(leases.get(dref, 0)), kept_until=int(expiry.get(dref, 0)),
            sender=fields.get("worker", ""), tries=dump.lengths["delivery_attempts"].get(dref, 0),
            body=fields.get("body", ""), record=f"{record['round']} {record['status']}" if record else "",
            output=dump.strings["delivery_output"].get(dref, ""), secret=fields.get("secret", ""),
            succeeded="delivered" in fields,
        )  # fmt: skip
    return found


def hosts_of(dump: Dump) -> dict[str, Host]:
    """Those of which something is known; whether one is full is told by what is being sent to it."""
    names = ("silent", "pause", "paused_until", "limit")
    found = {
        name: Host(**{field: _number(record, field) for field in names}) for name, record in dump.hashes["host"].items()
    }
    return {name: host for name, host in found.items() if host != Host()}


def addresses_of(dump: Dump) -> dict[str, Address]:
    kept = dump.zsets["addresses_expiry"].get("", {})
    return {
        name: Address(**_health(record), url=record.get("url", ""), kept_until=int(kept.get(name, 0)))  # type: ignore[arg-type]
        for name, record in dump.hashes["address"].items()
    }


def endpoints_of(dump: Dump) -> dict[str, Endpoint]:
    found = {}
    for name, record in dump.hashes["endpoint"].items():
        texts = {field: record.get(field, "") for field in ("url", "events", "secret", "old_secret")}
        numbers = {field: _number(record, field) for field in ("old_until", "secret_changed_at", "created_at")}
        found[name] = Endpoint(**_health(record), **texts, **numbers)  # type: ignore[arg-type]
    return found
