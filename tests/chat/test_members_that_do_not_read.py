"""Members of the program's own that do not read: nothing is queued for those that only speak, little for others."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from chatapi import ChatAPI, Disconnected, Limits, NotDelivered, Whisper
from chatapi.bots import Bot
from chatapi.core import views
from chatapi.core.admission import Admission
from chatapi.core.broker_events import BrokerEventHandler
from chatapi.protocol.text.rendering import TEXT
from chatapi.testing import ChatKit, Peer


def bot_in(kit: ChatKit, name: str = "news", *, reads: bool) -> Bot:
    """A bot in the room `dev`, made as `ChatAPI.join` makes it."""
    return Bot(lambda bot: Admission(kit.hub, name, "dev").enter(bot, TEXT, False), kit.hub, reads=reads)


def json_frames(peer: Peer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in peer.lines()]


def by_text(kit: ChatKit) -> str:
    peer = kit.member("Mina")
    peer.send("/msg news hello\n")
    return peer.received()


def by_short_form(kit: ChatKit) -> str:
    peer = kit.member("Mina")
    peer.send("@news hello\n")
    return peer.received()


def by_telnet(kit: ChatKit) -> str:
    peer = kit.connect(telnet=True)
    peer.send("Mina\r\n/join dev\r\n")
    peer.received()
    peer.send("@news hello\r\n")
    return peer.received()


def by_json(kit: ChatKit) -> str:
    peer = kit.member("Mina", protocol="json")
    peer.received()
    peer.send('{"type":"whisper","to":"news","text":"hello","id":"1"}\n')
    [frame] = json_frames(peer)
    assert frame["id"] == "1"
    assert frame.get("code", "not_delivered") == "not_delivered"
    return str(frame.get("detail", ""))


def by_client(kit: ChatKit) -> str:
    kit.member("Mina")
    [client] = [client for client in views.Room(kit.hub.rooms["dev"]).members if client.name == "Mina"]
    try:
        client.whisper("news", "hello")
    except NotDelivered as error:
        return str(error)
    return ""


def by_bot(kit: ChatKit) -> str:
    return str(bot_in(kit, "Mina", reads=True)._client.ask_whisper("news", "hello").error or "")


def from_another_server(kit: ChatKit) -> str:
    return BrokerEventHandler(kit.hub).deliver_whisper("dev", "news", Whisper(0, "Mina", "hello"))


WAYS = [by_text, by_short_form, by_telnet, by_json, by_client, by_bot, from_another_server]


@pytest.mark.parametrize("way", WAYS)
def test_a_whisper_to_a_bot_that_only_speaks_is_refused_and_not_queued(way: Callable[[ChatKit], str]) -> None:
    kit = ChatKit()
    bot = bot_in(kit, reads=False)
    assert "news does not read messages; nothing was sent" in way(kit)
    assert bot._client.lane_size == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_whisper_to_a_bot_that_reads_is_queued(way: Callable[[ChatKit], str]) -> None:
    kit = ChatKit()
    bot = bot_in(kit, reads=True)
    assert "nothing was sent" not in way(kit)
    assert bot._client.lane_size > 0


@pytest.mark.parametrize("way", WAYS)
def test_the_whispers_for_a_bot_that_is_never_iterated_are_bounded(way: Callable[[ChatKit], str]) -> None:
    kit = ChatKit()
    bot = bot_in(kit, reads=True)
    sender = bot_in(kit, "sender", reads=False)
    while not bot._client.lane_full:
        sender.client.whisper("news", "x" * 1000)
    full = bot._client.lane_size
    assert full < kit.hub.limits.lane_bytes + 2000
    assert "news has too many unread messages; nothing was sent" in way(kit)
    assert bot._client.lane_size == full


def test_a_bot_that_is_never_iterated_is_disconnected_when_the_room_has_moved_on() -> None:
    kit = ChatKit(Limits(rate=0, log_bytes=65_536, grace=5))
    bot, mina = bot_in(kit, reads=True), kit.member("Mina")
    for _ in range(50):
        mina.send("x" * 1000 + "\n")
    kit.settle()
    kit.wait(6)
    assert kit.hub.disconnects == {"slow_consumer": 1}
    assert bot.room is None
    assert mina.transport.reading


def test_nothing_else_is_queued_for_a_bot_that_only_speaks() -> None:
    """What others say and do, what becomes of the server, its own name: for none of that anything is kept."""
    kit = ChatKit(Limits(rate=0, log_bytes=65_536, grace=5))
    bot, mina = bot_in(kit, reads=False), kit.member("Mina")
    mina.send("/nick Min\n/list\n/history\n/msg news hello\n")
    for _ in range(500):
        mina.send("x" * 1000 + "\n")
    bot.client.rename("other")
    bot.client.post("hello")
    BrokerEventHandler(kit.hub).availability_changed(["dev"], "the disk is full")
    kit.settle()
    kit.wait(60)
    assert bot._client.lane_size == 0
    assert bot.room is not None
    assert kit.hub.disconnects == {}


@pytest.mark.anyio
async def test_a_bot_that_only_speaks_has_no_history_to_read_and_cannot_be_iterated() -> None:
    chat = ChatAPI()
    async with chat.join("Mina", "dev", reads=False) as mina, chat.join("Zoe", "dev") as zoe:
        await mina.post("hello")
        async with chat.join("news", "dev", reads=False, history=10) as news:
            assert news._client.lane_size == 0
            with pytest.raises(RuntimeError, match="reads=False"):
                await anext(news)
            with pytest.raises(NotDelivered, match="does not read messages"):
                await zoe.whisper("news", "hello")
            await news.whisper("zoe", "hi")


@pytest.mark.anyio
async def test_a_bot_is_told_of_its_end_though_it_only_speaks() -> None:
    chat = ChatAPI()
    async with chat.join("news", "dev", reads=False) as news:
        news.client.disconnect("kicked")
        with pytest.raises(Disconnected):
            await news.post("hello")


@pytest.mark.anyio
async def test_a_room_is_true_also_where_nobody_is_in_it() -> None:
    chat = ChatAPI()
    assert not chat.room("dev")
    async with chat.join("Mina", "dev", reads=False) as mina:
        await mina.post("hello")
        assert chat.room("dev")
    room = chat.room("dev")
    assert room is not None
    assert room
    assert len(room) == 0
    assert all(chat.rooms)
    with anyio.fail_after(30):
        assert (await chat.history("dev")).messages
