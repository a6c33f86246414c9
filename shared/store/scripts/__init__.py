"""The transitions as Lua, one file each: the header of a file says its arguments and its result.

A script is the table of keys, `prelude.lua` and the file's own text. It runs by its SHA-1; where the server does not
know it (a fresh server, `SCRIPT FLUSH`) the text is sent.
"""

from __future__ import annotations

from hashlib import sha1
from pathlib import Path

from shared.store.keys import KEYS

_FOLDER = Path(__file__).parent


class Script:
    """One transition: its name, its Lua text and the SHA-1 that the server knows it by."""

    def __init__(self, name: str) -> None:
        keys = ", ".join(f"{short} = '{name}'" for short, name in KEYS.items())
        prelude = (_FOLDER / "prelude.lua").read_text("utf-8")
        body = (_FOLDER / f"{name}.lua").read_text("utf-8")
        self.name = name
        self.text = f"local KEY = {{ {keys} }}\n{prelude}\n{body}"
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
REDELIVER = Script("redeliver")
