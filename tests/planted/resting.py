"""Planted bugs: endpoints and their secrets, and deliveries that come to rest."""

from __future__ import annotations

from tests.planted.bug import Bug

LIFE = "deliveries"

ENDPOINTS = [
    Bug("a new URL is ignored", "delivery_claim", "if url ~= fields[3] then", "if false then", LIFE),
    Bug(
        "an old secret is valid for ever",
        "delivery_claim",
        "if old_secret and tonumber(old_until) > now then",
        "if old_secret then",
        LIFE,
    ),
    Bug(
        "a rotation that is sent twice ends the old secret",
        "endpoint_save",
        "if fields.secret and fields.secret ~= secret then",
        "if fields.secret then",
        LIFE,
    ),
    Bug(
        "an endpoint is sent what it asked for at first",
        "endpoint_save",
        "if fields.events then",
        "if fields.events and not known then",
        LIFE,
    ),
    Bug(
        "a deleted endpoint is sent what ends",
        "endpoint_drop",
        "call('HDEL', KEY.endpoints .. ARGV[2], ARGV[3])",
        "",
        LIFE,
    ),
    Bug(
        "a URL of jobs is sent what it did not ask for",
        "deliveries",
        "if job.webhook_url and wants(job.webhook_events, kind) then",
        "if job.webhook_url then",
        LIFE,
    ),
    Bug(
        "what waits for a deleted endpoint waits for ever",
        "delivery_claim",
        "return settle(dref, delivery, 'failed', now, ttl_ms, 'its endpoint was deleted')",
        "return enter_line(dref, host, now + 1000)",
        LIFE,
    ),
    Bug(
        "a ping that is sent twice is two",
        "ping",
        "if call('EXISTS', KEY.delivery .. dref) == 0 then",
        "if true then",
        LIFE,
    ),
]

RESTING = [
    Bug(
        "a delivery stays in the index of its old status",
        "deliveries",
        "if before then call('ZREM', index .. before, id_of(dref)) end",
        "",
        LIFE,
    ),
    Bug(
        "the index has the time of creation",
        "delivery_finish",
        "index_delivery(dref, delivery.target, delivery.status, 'pending', now)",
        "",
        LIFE,
    ),
    Bug(
        "what is redelivered is in the index of its old status",
        "redeliver",
        "index_delivery(dref, delivery.target, delivery.status, 'pending', now)",
        "",
        LIFE,
    ),
    Bug(
        "what is redelivered goes with its retention",
        "redeliver",
        "call('ZREM', KEY.deliveries_expiry, dref)",
        "",
        LIFE,
    ),
    Bug(
        "what is being sent is redelivered",
        "redeliver",
        "if call('ZSCORE', KEY.deliveries_leases, dref) then return 'sending' end",
        "",
        LIFE,
    ),
    Bug(
        "what is at rest is kept for ever",
        "deliveries",
        "call('ZADD', KEY.deliveries_expiry,",
        "call('ZREM', KEY.deliveries_expiry, dref,",
        LIFE,
    ),
    Bug("what is at rest has a next try", "deliveries", "call('HDEL', name, 'next_at')", "", LIFE),
    Bug(
        "each try has a body of its own",
        "delivery_finish",
        "call('HSETNX', name, 'body', ARGV[8])",
        "call('HSET', name, 'body', ARGV[8])",
        LIFE,
    ),
    Bug(
        "a record is kept beside the body",
        "delivery_finish",
        "call('DEL', KEY.delivery_record .. dref, KEY.delivery_output .. dref)",
        "",
        LIFE,
    ),
    Bug(
        "a delivery has no output",
        "deliveries",
        "call('COPY', KEY.result .. ref, KEY.delivery_output .. dref, 'REPLACE')",
        "local copied",
        LIFE,
    ),
    Bug("a forgotten delivery stays in its index", "expire", "call('ZREM', index .. status, id_of(dref))", "", LIFE),
    Bug(
        "a forgotten delivery stays in its job's list",
        "expire",
        "if ref then call('LREM'",
        "if false then call('LREM'",
        LIFE,
    ),
    Bug("a target without deliveries stays named", "expire", "call('SREM', KEY.targets .. tenant, target)", "", LIFE),
    Bug(
        "a new delivery wakes nobody",
        "deliveries",
        "enter_line(dref, host, now)\n  wake_sender()",
        "enter_line(dref, host, now)",
        LIFE,
    ),
]
