"""What came of a try to deliver a webhook, in no client library's words: who only needs these, imports no client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a try: the answer's status, the first 1 KB of its body, and what went wrong with it.

    `status_code` and `body` are None where no answer came, and `error` then says why, in words. `reason` says it to the
    program, and means nothing where there is a status: the receiver was `silent` (no connection, no TLS, no status
    line), our own check `refused` the address, or the message could not be made ready (`unready`).
    `abort`: the answer's header asks for no more tries of this message.
    """

    status_code: int | None = None
    retry_after: str | None = None
    body: str | None = None
    error: str | None = None
    abort: bool = False
    reason: Literal["silent", "refused", "unready"] = "silent"
