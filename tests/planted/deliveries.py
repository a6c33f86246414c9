"""Planted bugs: leases of deliveries, their hosts and addresses."""

from __future__ import annotations

from tests.planted.bug import Bug

LIFE = "deliveries"
_FENCE = "delivery.worker ~= worker or delivery.attempt ~= attempt or not call('ZSCORE', KEY.deliveries_leases, dref)"
_HOLDS = "holder ~= worker or held_attempt ~= attempt or not call('ZSCORE', KEY.deliveries_leases, dref)"
_RENEWED = "holder == worker and attempt == ARGV[i + 1] and"

LEASED = [
    Bug("a late try is recorded", "delivery_finish", _FENCE, "not delivery.status", LIFE),
    Bug("a try is fenced by its number alone", "delivery_finish", "delivery.worker ~= worker or ", "", LIFE),
    Bug("a try is fenced by its sender alone", "delivery_finish", "delivery.attempt ~= attempt or ", "", LIFE),
    Bug("a late try is handed back", "delivery_release", _HOLDS, "not next_at", LIFE),
    Bug("a late renewal counts", "delivery_renew", _RENEWED, "", LIFE),
    Bug("a renewal is fenced by its number alone", "delivery_renew", "holder == worker and ", "", LIFE),
    Bug(
        "a renewal lengthens no lease",
        "delivery_renew",
        "if held then call('ZADD', KEY.deliveries_leases, lease_end, ARGV[i]) end",
        "",
        LIFE,
    ),
    Bug(
        "a finish sent twice is not known",
        "delivery_finish",
        "if delivery.done ==",
        "if false and delivery.done ==",
        LIFE,
    ),
    Bug("a lost sender's lease never ends", "delivery_claim", "if recover then", "if false then", LIFE),
    Bug("leases are ended by who may not", "delivery_claim", "if recover then", "if true then", LIFE),
    Bug(
        "a lease ends a moment too early",
        "delivery_claim",
        "int(now + lease_ms), dref",
        "int(now + lease_ms - 1), dref",
        LIFE,
    ),
    Bug(
        "a lost delivery loses its place",
        "delivery_claim",
        "enter_line(dref, host, next_at) --",
        "enter_line(dref, host, now) --",
        LIFE,
    ),
    Bug("a try has the number of the last one", "delivery_claim", "call('HINCRBY', name, 'attempt', 1)", "", LIFE),
    Bug(
        "a delivery is sent before it is due",
        "delivery_claim",
        "host_line .. host, '-inf', int(now), ",
        "host_line .. host, '-inf', int(now + 1), ",
        LIFE,
    ),
    Bug("what is no longer sent stays leased", "deliveries", "call('ZREM', KEY.deliveries_leases, dref)", "", LIFE),
    Bug(
        "what is no longer sent stays with its host",
        "deliveries",
        "call('SREM', KEY.host_sending .. host, dref)",
        "",
        LIFE,
    ),
    Bug(
        "what is no longer sent keeps its sender",
        "deliveries",
        "call('HDEL', KEY.delivery .. dref, 'worker')",
        "",
        LIFE,
    ),
    Bug("a retry is due at once", "delivery_finish", "int(now + tonumber(ARGV[7]))", "int(now)", LIFE),
    Bug("a retry does not move on in its schedule", "delivery_finish", "call('HINCRBY', name, 'step', 1)", "", LIFE),
    Bug("a try is not recorded", "delivery_finish", "call('RPUSH', KEY.delivery_attempts .. dref, ARGV[6])", "", LIFE),
]

HOSTS = [
    Bug(
        "a host that is full stays full",
        "deliveries",
        "return call('HDEL', KEY.host .. host, 'full') == 1",
        "return false",
        LIFE,
    ),
    Bug("a host has no limit", "delivery_claim", "entry.sending < entry.allowed and (not best", "(not best", LIFE),
    Bug(
        "a host's limit is for each sender",
        "delivery_claim",
        "local sending = call('SCARD', KEY.host_sending .. host)",
        "local sending = 0",
        LIFE,
    ),
    Bug(
        "a claim does not count what it takes",
        "delivery_claim",
        "entry.sending = entry.sending + 1",
        "local one = 1",
        LIFE,
    ),
    Bug("a busy host is sent as many as ever", "delivery_claim", "tonumber(reduced or host_limit)", "host_limit", LIFE),
    Bug("a limit is not lifted", "delivery_finish", "tonumber(reduced) * 2", "tonumber(reduced)", LIFE),
    Bug(
        "a pause is ignored", "deliveries", "int(math.max(tonumber(first), tonumber(paused_until or 0)))", "first", LIFE
    ),
    Bug("the breaker never opens", "delivery_finish", "silent >= BREAK_AFTER", "false", LIFE),
    Bug(
        "the breaker never closes",
        "delivery_finish",
        "if ARGV[10] == 'ok' then\n  call('HDEL', host, 'silent', 'pause', 'paused_until')",
        "if ARGV[10] == 'ok' then",
        LIFE,
    ),
    Bug("a pause does not double", "delivery_finish", "tonumber(pause) * 2", "tonumber(pause)", LIFE),
    Bug("a host with an empty line stays named", "deliveries", "call('ZREM', KEY.hosts, host)", "", LIFE),
    Bug("a finish does not line its host up", "delivery_finish", "line_up(delivery.host)\n", "\n", LIFE),
    Bug("a claim does not line its hosts up", "delivery_claim", "line_up(entry.host)", "", LIFE),
    Bug(
        "the host that is sent the most goes first",
        "delivery_claim",
        "entry.sending < best.sending",
        "entry.sending > best.sending",
        LIFE,
    ),
    Bug("a host that has room again wakes nobody", "delivery_finish", "if was_full then wake_sender() end", "", LIFE),
    Bug(
        "a claim looks again without regard to leases",
        "delivery_claim",
        "recover and KEY.deliveries_leases or nil",
        "nil",
        LIFE,
    ),
]
