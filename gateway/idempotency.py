"""`Idempotency-Key`: a request that is sent again is answered as it was before.

The rules are the IETF's (draft-ietf-httpapi-idempotency-key-header). The submit script decides, in the step that stores
a job. What a request says is its JSON, whatever the spaces in it and the order of its fields.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from fastapi import Header

_QUOTED = r'"([ !#-\[\]-~]|\\["\\])+"'

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=f"^({_QUOTED}|[!-~]+)$",
        max_length=255,
        description=(
            "For 24 hours the same key with the same body gives the same answer, and with another body a 422. Quotes "
            'around the key, as the IETF draft has them, are not a part of it: `"order-4711"` is `order-4711`.'
        ),
        examples=["order-4711"],
    ),
]


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request as its key names it. Without a key it is another one each time."""

    key: str
    fingerprint: str


def keyed(header: str | None, sent: Any) -> KeyedRequest:
    """The request with this header and this JSON body."""
    if header is None:
        return KeyedRequest("", "-")
    content = orjson.dumps(sent, option=orjson.OPT_SORT_KEYS)
    return KeyedRequest(_unquoted(header), hashlib.sha256(content).hexdigest())


def _unquoted(header: str) -> str:
    return re.sub(r"\\(.)", r"\1", header[1:-1]) if re.fullmatch(_QUOTED, header) else header
