"""Details that a broker, a hook or the program has worded reach a member as one line, in every protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chatapi import Limits, Refused
from chatapi.core.broker import unavailable
from chatapi.core.hooks import Hooks
from chatapi.testing import ChatKit, LateBroker, Peer

DETAIL = "a\x1b[2Jb\nc\ud800d\u202e"
MESSAGES = {"text": "x\n", "json": '{"type":"message","text":"x","id":"1"}\n'}


def is_not_kept(kit: ChatKit, peer: Peer, message: str) -> None:
    assert isinstance(kit.broker, LateBroker)
    kit.broker.failing = unavailable(DETAIL)
    peer.send(message)
    kit.settle()
    kit.broker.release()


def is_refused_by_a_hook(kit: ChatKit, peer: Peer, message: str) -> None:
    peer.send(message)
    kit.settle()
    peer.send(message)


def is_told_how_the_server_is(kit: ChatKit, peer: Peer, message: str) -> None:
    assert peer.connection.client is not None
    peer.connection.client.outlet.notice("unavailable", DETAIL)


def is_disconnected(kit: ChatKit, peer: Peer, message: str) -> None:
    assert peer.connection.client is not None
    peer.connection.client.disconnect("kicked", DETAIL)


@pytest.mark.parametrize("protocol", ["text", "json"])
@pytest.mark.parametrize(
    "way",
    [is_not_kept, is_refused_by_a_hook, is_told_how_the_server_is, is_disconnected],
    ids=lambda way: way.__name__,
)
def test_a_detail_is_one_line_that_a_terminal_can_show(way: Callable[..., None], protocol: str) -> None:
    def refuse(client: Any, text: str) -> None:
        raise Refused("forbidden", DETAIL)

    hooks = Hooks(on_message=refuse if way is is_refused_by_a_hook else None)
    kit = ChatKit(Limits(rate=0), broker=LateBroker, hooks=hooks)
    peer = kit.member("Mina", protocol=protocol)
    peer.lines()
    way(kit, peer, MESSAGES[protocol])
    kit.settle()
    lines = peer.lines()
    assert len(lines) == (2 if way is is_refused_by_a_hook else 1)
    for line in lines:
        assert "a[2Jb c?d\u202e\u202c" in line
        assert "server_error" not in line
    assert peer.transport.ended is (way is is_disconnected)
