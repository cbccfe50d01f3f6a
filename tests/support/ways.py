"""The ways in which somebody comes in and speaks, for tests of a rule that must hold on all of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from chatapi import Limits
from chatapi.testing import ChatKit, Peer

LOBBY = "dev"
"""Where the telnet door of a kit leads to in these tests."""


def kit(limits: Limits, **options: Any) -> ChatKit:
    """A kit whose telnet door leads into `dev`."""
    return ChatKit(limits, lobby=LOBBY, **options)


def enter_by_telnet(chat: ChatKit, name: str, **fields: Any) -> Peer:
    """A connection at the telnet door that has given its nickname."""
    peer = chat.connect(telnet=True, **fields)
    chat.settle()
    peer.send(f"{name}\r\n")
    chat.settle()
    return peer


def frame(type: str, **fields: Any) -> str:  # noqa: A002
    """One frame, as it is sent."""
    return json.dumps({"type": type, **fields}, ensure_ascii=False) + "\n"


def frames(peer: Peer) -> list[dict[str, Any]]:
    """The frames that a JSON member got."""
    return [json.loads(line) for line in peer.lines()]


def on_a_loop(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """What an async function returns: for the verbs of bots and of `ChatAPI`, in a test that is not async."""

    async def within() -> Any:
        with anyio.fail_after(60):
            return await main()

    return anyio.run(within)


def closed(peer: Peer) -> bool:
    """Whether the connection is closed, and nothing that arrived was left unread."""
    return peer.transport.closed and not peer.transport.discarded
