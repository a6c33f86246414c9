"""Planted bugs: what operators allow single tenants."""

from __future__ import annotations

from tests.planted.bug import Bug

TENANTS = [
    Bug(
        "a tenant runs more than it may",
        "claim",
        "lane = lane and places_of(entry[1]) > 0 and lane",
        "lane = lane and places_of(entry[1]) > -9 and lane",
    ),
    Bug(
        "what a claim takes is not counted",
        "claim",
        "places[tenant] = places_of(tenant) - 1",
        "places_of(tenant)",
    ),
    Bug(
        "a job that runs alone runs beyond its tenant's limit",
        "claim",
        "places_of(tenant_of(ref)) > 0 then",
        "true then",
    ),
    Bug(
        "no place is kept for a job that must run alone",
        "claim",
        "places[tenant_of(ref)] = places_of(tenant_of(ref)) - 1\n          if",
        "if",
    ),
    Bug("what is passed over is forgotten", "tenants", "call('SADD', KEY.held_back", "call('SISMEMBER', KEY.held_back"),
    Bug("a place that is free wakes nobody", "ends", "wake_held_back(tenant_of(ref))", ""),
    Bug("a limit that is raised wakes nobody", "tenant_limits", "wake_held_back(ARGV[2])", ""),
    Bug("a tenant's own depth is not looked at", "depth", "of_tenant = own or of_tenant", ""),
    Bug(
        "a limit that is dropped still holds",
        "tenant_limits",
        "call('HDEL', KEY.tenant_limits",
        "call('HEXISTS', KEY.tenant_limits",
    ),
]
