"""What a member is shown of the past: how much at once, one part after the other, and at the price of lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from speakers import Frame, Speaker

from chatapi import Limits
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.testing import ChatKit, Peer

LINE = 8_000
NO_RATE = Limits(rate=0)


def fill(kit: ChatKit, messages: int, size: int = LINE) -> None:
    """Have the program say so many messages, each of so many bytes, by a member that is gone afterwards."""
    peer = kit.member("talker")
    talker = peer.connection.client
    assert talker is not None
    for number in range(messages):
        talker.post(f"{number} ".ljust(size, "x"))
        kit.settle()
    peer.send("/bye\n")
    kit.settle()


def page(speaker: Speaker, **asked: Any) -> tuple[Frame, int]:
    """The answer to a `history` frame, and how many bytes it has."""
    speaker.send("history", **asked)
    text = speaker.peer.received()
    speaker.peer.transport.sent[:0] = text.encode()
    return speaker.frame(), len(text)


# How much at once


@pytest.mark.parametrize("size", [10, 700, LINE])
@pytest.mark.parametrize("limit", [1, 7, 100])
def test_a_history_answer_is_no_larger_than_the_lane_and_paging_on_finds_everything(size: int, limit: int) -> None:
    kit = ChatKit(NO_RATE)
    fill(kit, 150, size)
    mina = Speaker(kit).opened()
    found: list[int] = []
    more = True
    while more:
        answer, taken = page(mina, limit=limit, ref="x" * 64, **({"before": found[0]} if found else {}))
        assert taken <= NO_RATE.lane_bytes
        seqs = [message["seq"] for message in answer["messages"]]
        assert seqs, "whoever pages would never end"
        assert len(seqs) <= limit
        found, more = seqs + found, answer["more"]
    assert found == [*range(1, 151)]


def history_answers(room_for: int) -> tuple[int, bool]:
    """How many of five messages an answer has, and whether there are more, where the lane has room for three less or
    more so many bytes."""
    kit = ChatKit(NO_RATE)
    fill(kit, 5, 2_000)
    _, three = page(Speaker(kit, "probe").opened(), limit=3)
    kit = ChatKit(Limits(rate=0, lane_bytes=three + 1 + room_for))  # it is counted as if it said `more: false`
    fill(kit, 5, 2_000)
    answer, _ = page(Speaker(kit).opened())
    return len(answer["messages"]), answer["more"]


def test_lane_bytes_at_the_limit() -> None:
    assert history_answers(0) == (3, True)


def test_lane_bytes_one_beyond() -> None:
    assert history_answers(-1) == (2, True)


def test_a_message_that_is_larger_than_the_lane_is_shown_alone() -> None:
    kit = ChatKit(Limits(rate=0, lane_bytes=4096))
    fill(kit, 3)
    mina = Speaker(kit).opened()
    for before, more in ((4, True), (3, True), (2, False)):
        answer, _ = page(mina, before=before)
        assert ([message["seq"] for message in answer["messages"]], answer["more"]) == ([before - 1], more)


@pytest.mark.anyio
async def test_pages_that_come_from_the_disk_are_no_larger_either(tmp_path: Path) -> None:
    limits = Limits(rate=0, log_bytes=65536, keep=0)
    kit = ChatKit(limits, broker=lambda clock: SQLiteBroker(tmp_path / "chat.db", clock=clock))
    async with kit.running():
        talker = kit.member("talker")
        await kit.settled()
        for number in range(60):
            talker.send(f"{number} ".ljust(LINE, "x") + "\n")
            await kit.settled()
        mina = Speaker(kit)
        await kit.settled()
        mina.opened()
        found: list[int] = []
        more = True
        while more:
            mina.send("history", **({"before": found[0]} if found else {}))
            await kit.settled()
            text = mina.peer.received()
            assert len(text) <= limits.lane_bytes
            mina.peer.transport.sent += text.encode()
            answer = mina.frame()
            assert answer["messages"], "whoever pages would never end"
            found = [message["seq"] for message in answer["messages"]] + found
            more = answer["more"]
        assert found == [*range(1, 61)]


def test_a_member_that_does_not_read_has_no_more_than_a_few_lanes_of_pages_waiting_for_it() -> None:
    kit = ChatKit(NO_RATE)
    fill(kit, 150)
    mina = Speaker(kit, capacity=1000)
    for _ in range(500):
        mina.send("history")
    kit.settle()
    connection = mina.peer.connection
    assert connection.client is not None
    assert connection.client.lane_size + connection._send_buffer.waiting < 3 * NO_RATE.lane_bytes
    assert not mina.peer.transport.reading
    mina.peer.transport.capacity = 1 << 30
    assert [frame["type"] for frame in mina.frames()] == ["welcome", *["history"] * 500]


# One part after the other


def test_what_comes_behind_a_replay_waits_until_that_was_shown() -> None:
    kit = ChatKit(NO_RATE)
    fill(kit, 100)
    other, mina = kit.member("other"), kit.member("mina", capacity=1000)
    for _ in range(200):
        mina.send("/history 100\n")
    mina.send("hello\n")
    kit.settle()
    client = mina.connection.client
    assert client is not None
    assert client._lane is not None
    assert len(client._lane) == 1, "one replay, and 199 that are not yet begun"
    assert not mina.transport.reading
    other.send("@mina are you there?\n")
    assert other.lines() == [], "a whisper does not wait, and is not refused"
    mina.transport.capacity = 1 << 30
    lines = mina.lines()
    assert len(lines) == 200 * 100 + 1
    assert "* other whispers: are you there?" in lines
    assert other.lines() == ["mina:hello"]


@pytest.mark.parametrize("protocol", ["text", "json"])
def test_what_comes_with_a_handshake_waits_until_the_history_was_shown(protocol: str) -> None:
    kit = ChatKit(NO_RATE)
    fill(kit, 20)
    other = kit.member("other")
    mina = kit.connect(capacity=1000)
    hello = "hello\n" if protocol == "text" else '{"type": "message", "text": "hello"}\n'
    mina.send(f'{{"name": "mina", "room": "dev", "history": 20, "protocol": "{protocol}"}}\n{hello}')
    kit.settle()
    assert other.lines() == []
    mina.transport.capacity = 1 << 30
    assert len(mina.lines()) == (20 if protocol == "text" else 22)
    assert other.lines() == ["mina:hello"]


def test_a_member_that_ends_its_stream_behind_history_is_shown_it_and_leaves() -> None:
    kit = ChatKit(NO_RATE)
    fill(kit, 20)
    mina = kit.member("mina", capacity=1000)
    mina.send("/history\nhello\n")
    mina.end()
    kit.settle()
    mina.transport.capacity = 1 << 30
    assert len(mina.lines()) == 20
    room = kit.hub.room("dev")
    assert room is not None
    assert room.history(1)[0].text == "hello"
    assert not room.roster.here


# The price

Shown: TypeAlias = Callable[[ChatKit], tuple[Peer, str]]
"""Has a new member shown 100 large messages; returns it, and something of its own that is answered by one line."""

TEXT_PING, JSON_PING = "/list\n", '{"type": "ping"}\n'


def by_text_handshake(kit: ChatKit) -> tuple[Peer, str]:
    return kit.member("mina", history=100), TEXT_PING


def by_json_handshake(kit: ChatKit) -> tuple[Peer, str]:
    return Speaker(kit, "mina", history=100).peer, JSON_PING


def by_command(kit: ChatKit) -> tuple[Peer, str]:
    peer = kit.member("mina")
    peer.send("/history 100\n")
    return peer, TEXT_PING


def by_resume(kit: ChatKit) -> tuple[Peer, str]:
    first = Speaker(kit, "mina")
    first.frames()
    resume = first.resume(0, 0)
    first.cut("reset")
    return Speaker(kit, "mina", resume=resume).peer, JSON_PING


def by_frames(kit: ChatKit) -> tuple[Peer, str]:
    peer = Speaker(kit, "mina").peer
    peer.send('{"type": "history"}\n' * 13)  # eight of these messages in each
    return peer, JSON_PING


@pytest.mark.parametrize("show", [by_text_handshake, by_json_handshake, by_command, by_resume, by_frames])
def test_the_past_is_paid_for_as_lines_are_on_every_way_to_it(show: Shown) -> None:
    for rate, waits in ((0, False), (1, True)):
        kit = ChatKit(Limits(rate=rate, burst=150))
        fill(kit, 100)  # 98 lines of 8 KiB, or 13 pages of 8 lines each and one for the frame
        peer, ping = show(kit)
        assert len(peer.received()) > 100 * LINE
        peer.send(ping * 65)
        answers = len(peer.lines())
        kit.wait(66)
        assert (answers < 65) == waits
        assert answers + len(peer.lines()) == 65, "it only waits"


def shown_at_once(size: int, messages: int) -> int:
    """How many times the whole past is shown to a member that asks again and again, before it has to wait."""
    kit = ChatKit(Limits(rate=1, burst=40))
    fill(kit, messages, size)
    mina = kit.member("mina")
    mina.send(f"/history {messages}\n" * 100)
    return len(mina.lines()) // messages


def test_many_short_messages_have_a_price_too() -> None:
    kit = ChatKit(Limits(rate=1, burst=40))
    for number in range(3):
        kit.member(f"talker{number}").send("x\n" * 40)  # one run, which weighs little
        kit.settle()
    mina = kit.member("mina", history=120)
    assert len(mina.lines()) == 120
    mina.send(TEXT_PING * 40)
    assert len(mina.lines()) == 36, "four lines for 120 messages"


def test_burst_at_the_limit() -> None:
    assert shown_at_once(LINE, 40) == 1, "41 lines of 40: it has nothing left"


def test_burst_one_beyond() -> None:
    kit = ChatKit(Limits(rate=1, burst=10))
    fill(kit, 100)
    mina = kit.member("mina", history=100)
    assert len(mina.lines()) == 100
    mina.send(TEXT_PING)
    kit.wait(0.5)
    assert mina.lines() == []
    kit.wait(0.6)
    assert len(mina.lines()) == 1, "however much was shown, it costs no more than a burst"
