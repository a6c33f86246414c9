"""What a planted bug is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Life = Literal["jobs", "deliveries"]


@dataclass(frozen=True)
class Bug:
    """A piece of a script's text, which has to be there exactly once, and what stands there instead.

    `script` is the name of a file in shared/store/scripts; what is wrong in what they share is wrong in all of them.
    `life` says which state machine is to find it.
    """

    name: str
    script: str
    right: str
    wrong: str
    life: Life = "jobs"
