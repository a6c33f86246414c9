"""The transitions as Lua, one file each: the header of a file says its arguments and its result.

A script is the table of keys, what they share (`SHARED`) and the file's own text. It runs by its SHA-1; where the
server does not know it (a fresh server, `SCRIPT FLUSH`) the text is sent.
"""

from __future__ import annotations

from hashlib import sha1
from pathlib import Path

from shared.store.keys import KEYS

SHARED = ("prelude", "deliveries", "ends")
_FOLDER = Path(__file__).parent


class Script:
    """One transition: its name, its Lua text and the SHA-1 that the server knows it by."""

    def __init__(self, name: str) -> None:
        keys = ", ".join(f"{short} = '{name}'" for short, name in KEYS.items())
        parts = [(_FOLDER / f"{part}.lua").read_text("utf-8") for part in (*SHARED, name)]
        self.name = name
        self.text = "\n".join((f"local KEY = {{ {keys} }}", *parts))
        self.sha = sha1(self.text.encode(), usedforsecurity=False).hexdigest()


SUBMIT = Script("submit")
CLAIM = Script("claim")
RENEW = Script("renew")
APPEND = Script("append")
FINISH = Script("finish")
RELEASE = Script("release")
CANCEL = Script("cancel")
RETRY = Script("retry")
RESUME = Script("resume")
CHECKPOINT = Script("checkpoint")
PIN = Script("pin")
DISOWN = Script("disown")
ERASE = Script("erase")
EXPIRE = Script("expire")
DELIVERY_CLAIM = Script("delivery_claim")
DELIVERY_FINISH = Script("delivery_finish")
DELIVERY_RENEW = Script("delivery_renew")
DELIVERY_RELEASE = Script("delivery_release")
REDELIVER = Script("redeliver")
PING = Script("ping")
ENDPOINT_SAVE = Script("endpoint_save")
ENDPOINT_DROP = Script("endpoint_drop")
ADDRESS_SWITCH = Script("address_switch")
