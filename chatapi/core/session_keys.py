"""Keys of sessions: what others may see of one, and how a chat tells that it has given one itself."""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

_SIGNATURE: Final = 24
"""Characters that are the signature at the end of a key."""


def hash_key(key: str) -> str:
    """The hash of a key, as brokers keep it: 32 characters, or none for no key."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest() if key else ""


def signed(key: str, secret: bytes) -> str:
    """A new key with a signature behind it, or as it is where there is no secret to sign it with."""
    return key + _signature(key, secret) if secret else key


def is_signed(key: str, secret: bytes) -> bool:
    """Whether this key was signed with this secret."""
    if not secret:
        return False
    shown = key[-_SIGNATURE:].encode(errors="replace")
    return hmac.compare_digest(shown, _signature(key[:-_SIGNATURE], secret).encode())


def _signature(key: str, secret: bytes) -> str:
    return hashlib.blake2b(key.encode(errors="replace"), key=secret, digest_size=_SIGNATURE // 2).hexdigest()
