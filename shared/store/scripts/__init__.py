"""The transitions as Lua, one file each: the header of a file says its arguments and its result.

A script runs by its SHA-1; where the server does not know it (a fresh server, `SCRIPT FLUSH`) the text is sent.
"""

from __future__ import annotations

from hashlib import sha1

from shared.store.scripts.assembly import Source, assemble, read_part


class Script:
    """One transition: its name, its Lua text and the SHA-1 that the server knows it by.

    `promises`: whether others build on its answer, so that it waits for `WAIT_REPLICAS`; what the others lose when the
    master is lost is done again.
    """

    source: Source
    text: str
    sha: str

    def __init__(self, name: str, *, promises: bool = False) -> None:
        self.name = name
        self.promises = promises
        self.read(read_part)

    def read(self, source: Source) -> None:
        """Take the text from here: tests plant bugs in it."""
        self.source = source
        self.text = assemble(self.name, source)
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SUBMIT = Script("submit", promises=True)
CLAIM = Script("claim")
READ = Script("read")
RENEW = Script("renew")
APPEND = Script("append")
FINISH = Script("finish", promises=True)
RELEASE = Script("release", promises=True)
CANCEL = Script("cancel", promises=True)
RETRY = Script("retry", promises=True)
RESUME = Script("resume", promises=True)
CHECKPOINT = Script("checkpoint", promises=True)
PIN = Script("pin", promises=True)
DISOWN = Script("disown")
ERASE = Script("erase", promises=True)
EXPIRE = Script("expire")
BEAT = Script("beat")
DELIVERY_CLAIM = Script("delivery_claim")
DELIVERY_FINISH = Script("delivery_finish")
DELIVERY_RENEW = Script("delivery_renew")
DELIVERY_RELEASE = Script("delivery_release")
REDELIVER = Script("redeliver", promises=True)
PING = Script("ping")
ENDPOINT_SAVE = Script("endpoint_save", promises=True)
ENDPOINT_DROP = Script("endpoint_drop", promises=True)
API_KEY = Script("api_key", promises=True)
TENANT_LIMITS = Script("tenant_limits", promises=True)
RATE = Script("rate")
ADDRESS_SWITCH = Script("address_switch", promises=True)
