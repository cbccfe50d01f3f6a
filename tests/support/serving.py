"""A chat that is served for as long as a block lasts, on ports that the system chooses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from chatapi import ChatAPI
from chatapi.addresses import Address

SECONDS = 60.0
"""After which a test that hangs fails; nothing waits for them."""


@asynccontextmanager
async def served(chat: ChatAPI, **options: Any) -> AsyncIterator[dict[str, Address]]:
    """Serve the chat; the value is the address of each door by its name. The end of the block cancels serving."""
    with anyio.fail_after(SECONDS):
        async with anyio.create_task_group() as tasks:
            listening = await tasks.start(partial(chat.serve, "127.0.0.1:0", **options))
            yield {item.door: item.address for item in listening}
            tasks.cancel_scope.cancel()
