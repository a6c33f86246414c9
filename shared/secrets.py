"""The credentials of this process, taken out of what others say of them: a provider quotes the key that it refuses.

Behind not saying them in the first place, this is the second line: for errors of graphs, and for each line of the logs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import SecretStr

from shared.settings import Settings

MASK = "[secret]"
SHORTEST = 8  # what is shorter stands in the middle of words, too
# Our own look like secrets wherever they come from: API keys (shared/api_keys.py), and those of webhooks.
_OURS = (r"mas_[0-9a-z]{12}_[0-9A-Za-z]{38}", r"whsec_[A-Za-z0-9+/]{20,}={0,2}")
_pattern = re.compile("|".join(_OURS))


def hide(settings: Settings) -> None:
    """From now on, `masked` knows the credentials in these settings."""
    global _pattern
    forms = {form for known in credentials(settings) for form in (known, json.dumps(known)[1:-1])}
    longest_first = sorted(forms, key=len, reverse=True)
    _pattern = re.compile("|".join([*map(re.escape, longest_first), *_OURS]))


def masked(text: str) -> str:
    """`text` with `[secret]` in the place of each credential."""
    return _pattern.sub(MASK, text)


def credentials(settings: Settings) -> set[str]:
    """Keys and passwords, of URLs both as they are written and as they are meant."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            found |= set(_passwords(text)) if name.endswith("_url") else {text}
    return {one for one in found if len(one) >= SHORTEST}


def _passwords(url: str) -> Iterable[str]:
    def written() -> Iterator[str]:
        parts = urlsplit(url)
        yield parts.netloc.rpartition("@")[0].partition(":")[2]
        yield from (value for name, value in parse_qsl(parts.query) if "password" in name)

    return [form for password in written() for form in (password, unquote(password))]
