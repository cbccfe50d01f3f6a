"""What others may see of the key of a session: enough to tell it again, and nothing that opens it."""

from __future__ import annotations

import hashlib


def hashed(key: str) -> str:
    """The hash of a key, as brokers keep it: 32 characters, or none for no key."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest() if key else ""
