"""Planted bugs: the health of addresses."""

from __future__ import annotations

from tests.planted.bug import Bug

LIFE = "deliveries"

ADDRESSES = [
    Bug(
        "a disabled address is sent what is due",
        "delivery_claim",
        "if disabled_at and fields[4]",
        "if false and fields[4]",
        LIFE,
    ),
    Bug(
        "a disabled endpoint is sent no ping",
        "delivery_claim",
        "if disabled_at and fields[4] ~= 'webhook.ping' then",
        "if disabled_at then",
        LIFE,
    ),
    Bug(
        "what is for a disabled address is redelivered",
        "redeliver",
        "== 1 and delivery.type",
        "== 2 and delivery.type",
        LIFE,
    ),
    Bug("a 410 disables nothing", "delivery_finish", "then why = 'gone' end", "then why = why end", LIFE),
    Bug(
        "a 410 disables a URL that jobs name",
        "delivery_finish",
        "delivery.target ~= 'job' and there[1]",
        "there[1]",
        LIFE,
    ),
    Bug("a ping that fails counts", "delivery_finish", "and delivery.type ~= 'webhook.ping' then\n", "then\n", LIFE),
    Bug("a refusal of a message counts", "delivery_finish", "elseif ARGV[11] ~= 'none' and", "elseif", LIFE),
    Bug(
        "an address that is well is still failing",
        "delivery_finish",
        "clear_failures(address, address_name, delivery.target)",
        "",
        LIFE,
    ),
    Bug(
        "an address is disabled after four days",
        "deliveries",
        "DISABLE_AFTER_MS = 432000000",
        "DISABLE_AFTER_MS = 345600000",
        LIFE,
    ),
    Bug("each failure starts a streak", "deliveries", "if not since or", "if true or", LIFE),
    Bug(
        "a disabled address is not among the disabled",
        "deliveries",
        "call('ZADD', KEY.disabled, int(now), name)",
        "",
        LIFE,
    ),
    Bug(
        "an address that is switched on stays among the disabled",
        "address_switch",
        "call('ZREM', KEY.disabled, name)",
        "",
        LIFE,
    ),
    Bug("a deleted endpoint stays among the disabled", "endpoint_drop", "call('ZREM', KEY.disabled, name)", "", LIFE),
    Bug(
        "a URL that works again is kept",
        "deliveries",
        "    call('DEL', address)\n    call('ZREM', KEY.addresses_expiry, name)",
        "",
        LIFE,
    ),
]
