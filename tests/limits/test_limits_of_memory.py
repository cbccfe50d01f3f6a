"""The limits of what is held in memory, each at its limit and one beyond it, on every path that fills it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest
from speakers import Speaker
from ways import enter_by_telnet, frame, kit, on_a_loop

from chatapi import ChatAPI, Limits, NotDelivered
from chatapi.addresses import Address, bind
from chatapi.core import views
from chatapi.core.entries import Said
from chatapi.limits import ITEM_COST
from chatapi.testing import ChatKit, LateBroker, Peer

KiB = 1024
TEXT = "x" * (KiB - Said(1, "a", b"\n", 1).weight)
"""A line of the member `a` that costs a log 1,024 bytes."""


def talk(chat: ChatKit, peer: Peer, lines: int) -> None:
    """Say so many lines of 1,024 bytes, each in a run of its own and numbered."""
    sent = frame("message", text=TEXT) if peer.connection.protocol.resumable else f"{TEXT}\n"
    for number in range(lines):
        peer.send(sent.replace("x" * 6, f"{number:06}", 1))
        chat.settle()


def shown(chat: ChatKit, room: str = "dev") -> list[int]:
    """The numbers of the lines that somebody is shown who comes in now."""
    late = chat.member("Late", room, history=100_000)
    numbers = [int(line.partition(":")[2][:6]) for line in late.lines()]
    late.send("/bye\n")
    late.received()
    return numbers


SPEAK: dict[str, Callable[[ChatKit], Peer]] = {
    "text": lambda chat: chat.member("a"),
    "JSON": lambda chat: chat.member("a", protocol="json"),
    "telnet": lambda chat: enter_by_telnet(chat, "a"),
}

# log_bytes, log_entries: without announcements there is nothing but messages in a log

SMALL = Limits(rate=0, announce=0, history=100_000, log_bytes=64 * KiB)
SHORT = Limits(rate=0, announce=0, history=100_000, log_entries=64)


@pytest.mark.parametrize("way", SPEAK)
def test_log_bytes_at_the_limit(way: str) -> None:
    chat = kit(SMALL)
    talk(chat, SPEAK[way](chat), 64)
    assert shown(chat) == list(range(64))


@pytest.mark.parametrize("way", SPEAK)
def test_log_bytes_one_beyond(way: str) -> None:
    chat = kit(SMALL)
    talk(chat, SPEAK[way](chat), 65)
    assert shown(chat) == list(range(1, 65))


@pytest.mark.parametrize("way", SPEAK)
def test_log_entries_at_the_limit(way: str) -> None:
    chat = kit(SHORT)
    talk(chat, SPEAK[way](chat), 64)
    assert shown(chat) == list(range(64))


@pytest.mark.parametrize("way", SPEAK)
def test_log_entries_one_beyond(way: str) -> None:
    chat = kit(SHORT)
    talk(chat, SPEAK[way](chat), 65)
    assert shown(chat) == list(range(1, 65))


def test_log_entries_count_each_message_of_a_run() -> None:
    chat = kit(SHORT)
    chat.member("a").send("".join(f"{number:06}\n" for number in range(66)))
    chat.settle()
    assert shown(chat)[-1] == 65
    assert len(shown(chat)) <= 64


# total_log_bytes

LOGS = Limits(rate=0, announce=0, history=100_000, total_log_bytes=KiB * KiB)


def two_rooms(lines: int, *, empty: bool) -> ChatKit:
    """A room of 600 lines, which is empty then or not, and one in which so many lines are said after that."""
    chat = kit(LOGS)
    first = chat.member("a", "first")
    talk(chat, first, 600)
    if empty:
        first.send("/bye\n")
        first.received()
    talk(chat, chat.member("a", "second"), lines)
    return chat


@pytest.mark.parametrize("empty", [True, False])
def test_total_log_bytes_at_the_limit(empty: bool) -> None:
    chat = two_rooms(424, empty=empty)
    assert shown(chat, "first") == list(range(600))
    assert shown(chat, "second") == list(range(424))


def test_total_log_bytes_one_beyond() -> None:
    chat = two_rooms(425, empty=True)
    assert shown(chat, "first") == []  # the empty room gives way
    assert shown(chat, "second") == list(range(425))


def test_beyond_total_log_bytes_the_largest_log_shrinks_if_no_room_is_empty() -> None:
    chat = two_rooms(425, empty=False)
    assert shown(chat, "first") == list(range(300, 600))
    assert shown(chat, "second") == list(range(425))


# in_hand_bytes


def in_hand(way: str, lines: int) -> tuple[ChatKit, Peer, Peer]:
    """A broker has got so many lines, and has answered none; who said them, and who hears them."""
    chat = kit(Limits(rate=0, announce=0, in_hand_bytes=64 * KiB), broker=LateBroker)
    zoe, speaker = chat.member("Zoe"), SPEAK[way](chat)
    talk(chat, speaker, lines)
    return chat, speaker, zoe


def release(chat: ChatKit) -> None:
    assert isinstance(chat.broker, LateBroker)
    while chat.broker.release():
        chat.settle()


@pytest.mark.parametrize("way", SPEAK)
def test_in_hand_bytes_at_the_limit(way: str) -> None:
    chat, speaker, zoe = in_hand(way, 64)
    talk(chat, speaker, 1)
    assert isinstance(chat.broker, LateBroker)
    assert chat.broker.pending == 65  # the last one was still taken
    release(chat)
    assert len(zoe.lines()) == 65


@pytest.mark.parametrize("way", SPEAK)
def test_in_hand_bytes_one_beyond(way: str) -> None:
    chat, speaker, zoe = in_hand(way, 65)
    talk(chat, speaker, 1)
    assert isinstance(chat.broker, LateBroker)
    assert chat.broker.pending == 65
    assert not speaker.transport.reading
    other = chat.member("b")
    other.send("me too\n")  # neither is anybody else's
    chat.settle()
    assert chat.broker.pending == 65
    release(chat)
    assert len(zoe.lines()) == 67


def test_in_hand_bytes_hold_back_a_bot() -> None:
    def posted(lines: int) -> int:
        chat = ChatAPI(Limits(in_hand_bytes=64 * KiB), broker=(broker := LateBroker(ChatKit().clock)))

        async def main() -> int:
            async with chat.join("a", "dev", reads=False) as bot:
                broker.release()
                for _ in range(lines):
                    bot.post_nowait(TEXT)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(bot.post, TEXT)
                    await anyio.wait_all_tasks_blocked()
                    found = broker.pending
                    while broker.release():
                        await anyio.wait_all_tasks_blocked()
            return found

        return int(on_a_loop(main))

    assert posted(64) == 65
    assert posted(65) == 65


# lane_bytes

ITEM = KiB - ITEM_COST
"""The text of a whisper that takes 1,024 bytes of a lane."""


def by_line(chat: ChatKit) -> Callable[[str], str]:
    mina = chat.member("Mina")

    def whisper(text: str) -> str:
        mina.send(f"@Zoe {text}\n")
        return mina.received()

    return whisper


def by_frame(chat: ChatKit) -> Callable[[str], str]:
    mina = Speaker(chat).opened()

    def whisper(text: str) -> str:
        mina.send("whisper", to="Zoe", text=text)
        answer = mina.frame()
        return str(answer["detail"]) if answer["type"] == "error" else ""

    return whisper


def by_program(chat: ChatKit) -> Callable[[str], str]:
    client = chat.member("Mina").connection.client
    assert client is not None

    def whisper(text: str) -> str:
        try:
            views.Client(client).whisper("Zoe", text)
        except NotDelivered as error:
            return str(error)
        return ""

    return whisper


WHISPERS = {"a line": by_line, "a frame": by_frame, "the program": by_program}


@contextmanager
def whispered(way: str, protocol: str) -> Iterator[tuple[Callable[[], str], Peer]]:
    """Somebody whispers to a member that does not read, and whose socket has taken what it could."""
    chat = kit(Limits(rate=0, announce=0, lane_bytes=4 * KiB))
    zoe = chat.member("Zoe", protocol=protocol)
    zoe.received()
    zoe.transport.capacity = 0
    whisper = WHISPERS[way](chat)
    assert whisper("the socket refuses this one: it is in no lane any more") == ""
    yield lambda: whisper("x" * ITEM), zoe


@pytest.mark.parametrize("way", WHISPERS)
@pytest.mark.parametrize("protocol", ["text", "json"])
def test_lane_bytes_at_the_limit(way: str, protocol: str) -> None:
    with whispered(way, protocol) as (whisper, zoe):
        assert [whisper() for _ in range(4)] == [""] * 4
        zoe.transport.capacity = 1 << 20
        assert len(zoe.lines()) == 5


@pytest.mark.parametrize("way", WHISPERS)
@pytest.mark.parametrize("protocol", ["text", "json"])
def test_lane_bytes_one_beyond(way: str, protocol: str) -> None:
    with whispered(way, protocol) as (whisper, zoe):
        told = [whisper() for _ in range(5)]
        assert told[:4] == [""] * 4
        assert "has too many unread messages" in told[4]
        zoe.transport.capacity = 1 << 20
        assert len(zoe.lines()) == 5
        assert whisper() == ""


QUESTIONS = {"text": "/help\n", "json": frame("rooms"), "telnet": "/help\r\n"}


@pytest.mark.parametrize("way", QUESTIONS)
def test_lane_bytes_hold_back_a_member_that_does_not_read_its_answers(way: str) -> None:
    chat = kit(Limits(rate=0, lane_bytes=4 * KiB))
    mina = enter_by_telnet(chat, "Mina") if way == "telnet" else chat.member("Mina", protocol=way)
    mina.received()
    mina.transport.capacity = 0
    mina.send(QUESTIONS[way] * 1000)
    chat.settle()
    assert not mina.transport.reading
    mina.transport.capacity = 1 << 30
    answered = mina.lines()
    assert len(answered) == 1000 * (1 if way == "json" else 9)


# remember_ids


def acks(ids: list[str], kind: str, *, back: bool) -> list[bool]:
    """Whether each of these ids was known, where three are remembered."""
    chat = kit(Limits(remember_ids=3))
    chat.member("Zoe")
    mina = Speaker(chat).opened()
    known = []
    for number, id_ in enumerate(ids):
        if back and number == len(ids) - 1:
            mina.cut("reset")
            again = Speaker(chat, resume=mina.resume())
            again.frames()
            mina = again
        fields = {"text": "hi", "id": id_} | ({"to": "Zoe"} if kind == "whisper" else {})
        mina.send(kind, **fields)
        known.append("duplicate" in mina.frame())
    return known


@pytest.mark.parametrize("kind", ["message", "whisper"])
@pytest.mark.parametrize("back", [False, True], ids=["on one connection", "on another one"])
def test_remember_ids_at_the_limit(kind: str, back: bool) -> None:
    assert acks(["1", "2", "3", "1"], kind, back=back) == [False, False, False, True]


@pytest.mark.parametrize("kind", ["message", "whisper"])
@pytest.mark.parametrize("back", [False, True], ids=["on one connection", "on another one"])
def test_remember_ids_one_beyond(kind: str, back: bool) -> None:
    assert acks(["1", "2", "3", "4", "1"], kind, back=back) == [False] * 5
    assert acks(["1", "2", "3", "4", "2"], kind, back=back) == [False] * 4 + [True]


# send_buffer_bytes, receive_buffer_bytes

BUFFERS = {"send_buffer_bytes": socket.SO_SNDBUF, "receive_buffer_bytes": socket.SO_RCVBUF}


def buffer(field: str, size: int) -> tuple[int, int]:
    """The size of an accepted connection's buffer, and the one that the system gives where so many bytes are asked."""
    option = BUFFERS[field]
    with socket.socket() as asked:
        asked.setsockopt(socket.SOL_SOCKET, option, size)
        expected = asked.getsockopt(socket.SOL_SOCKET, option)
    (listening,) = bind(Address("127.0.0.1", 0), Limits(**{field: size}))  # type: ignore[arg-type]
    with listening, socket.create_connection(listening.getsockname()) as _:
        listening.setblocking(True)
        with listening.accept()[0] as accepted:
            return accepted.getsockopt(socket.SOL_SOCKET, option), expected


def taken(field: str) -> int:
    """Bytes that the system takes from one side while the other one does not read, in pieces of 4 KiB."""
    limits = Limits(send_buffer_bytes=4 * KiB, receive_buffer_bytes=4 * KiB)
    (listening,) = bind(Address("127.0.0.1", 0), limits)
    with listening, socket.socket() as peer:
        for option in BUFFERS.values():
            peer.setsockopt(socket.SOL_SOCKET, option, 4 * KiB)
        peer.connect(listening.getsockname())
        listening.setblocking(True)
        with listening.accept()[0] as accepted:
            sender = accepted if field == "send_buffer_bytes" else peer
            sender.setblocking(False)
            sent = 0
            while sent < 64 * KiB * KiB:
                try:
                    sent += sender.send(b"x" * 4 * KiB)
                except BlockingIOError:
                    break
            return sent


LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each connection is configured by itself")


@LINUX
def test_send_buffer_bytes_at_the_limit() -> None:
    size, expected = buffer("send_buffer_bytes", 40_000)
    assert size == expected
    assert taken("send_buffer_bytes") >= 4 * KiB


@LINUX
def test_send_buffer_bytes_one_beyond() -> None:
    assert buffer("send_buffer_bytes", 40_001)[0] > buffer("send_buffer_bytes", 40_000)[0]
    assert taken("send_buffer_bytes") < KiB * KiB  # then it is the log that a slow member reads from


@LINUX
def test_receive_buffer_bytes_at_the_limit() -> None:
    size, expected = buffer("receive_buffer_bytes", 40_000)
    assert size == expected
    assert taken("receive_buffer_bytes") >= 4 * KiB


@LINUX
def test_receive_buffer_bytes_one_beyond() -> None:
    assert buffer("receive_buffer_bytes", 40_001)[0] > buffer("receive_buffer_bytes", 40_000)[0]
    assert taken("receive_buffer_bytes") < KiB * KiB  # then the sender waits
