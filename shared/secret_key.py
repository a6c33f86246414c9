"""What makes a SECRET_KEY one that can be guessed."""

from __future__ import annotations

MIN_LENGTH = 32
MIN_VARIETY = 8  # of 32 random hexadecimal digits, one in 25 million has fewer different ones
# What stands where a key was meant to be put.
PLACEHOLDERS = ("changeme", "change_me", "change-me", "replace", "example", "your-secret", "your_secret", "openssl")


def weakness(key: str) -> str:
    """What is wrong with this key; empty where nothing is."""
    if len(key) < MIN_LENGTH:
        return "has fewer than 32 characters"
    if len(set(key)) < MIN_VARIETY or key in (key + key)[1:-1]:
        return "repeats itself"
    if any(placeholder in key.lower() for placeholder in PLACEHOLDERS):
        return "is a placeholder"
    return ""
