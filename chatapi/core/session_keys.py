"""Session keys: hashes, which others may see, and signatures, by which a chat recognises its own keys."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

_SIGNATURE: Final = 24
"""Characters of the signature, at the end of a key."""


def hash_key(key: str) -> str:
    """Return the hash of a key, as brokers keep it: 32 characters; empty if there is no key."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest() if key else ""


def signed(key: str, secret: bytes) -> str:
    """Return a new key with its signature, or without one if there is no secret to sign it with."""
    return key + _signature(key, secret) if secret else key


def is_signed(key: str, secret: bytes) -> bool:
    """Return whether this key was signed with this secret."""
    if not secret:
        return False
    shown = key[-_SIGNATURE:].encode(errors="replace")
    return hmac.compare_digest(shown, _signature(key[:-_SIGNATURE], secret).encode())


def _signature(key: str, secret: bytes) -> str:
    return hashlib.blake2b(key.encode(errors="replace"), key=secret, digest_size=_SIGNATURE // 2).hexdigest()
