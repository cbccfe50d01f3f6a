"""What the client library does with messages that the server cannot keep for a while."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import scripted
from client_protocols import again, client_protocol, hear, line, live, message, outcome, said, texts, welcome
from hypothesis import given
from hypothesis import strategies as st
from scripted import Peer, dev, kinds, served, take

from chatapi import ChatAPI
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.client.connection import Connection
from chatapi.client.events import Lost, Notice, Recovered, Welcome
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import RESEND_WITHIN, Request
from chatapi.errors import ChatError, Disconnected, Refused
from chatapi.events import Message

# Without I/O. The pauses of these protocols last 1, 2, 4 … seconds.


def refusal(number: int) -> bytes:
    return line("error", code="unavailable", detail="not kept: Redis is away", id=f"p-{number}")


def ack(number: int, seq: int, **fields: Any) -> bytes:
    return line("ack", id=f"p-{number}", seq=seq, ts=seq * 10, **fields)


UNAVAILABLE = line("notice", code="unavailable", detail="Redis is away")
AVAILABLE = line("notice", code="available", detail="Redis is back")


def held(*given: str, now: float = 0, **arguments: Any) -> tuple[ClientProtocol, list[Request]]:
    """A client protocol whose messages were all written and refused, and which waits for a second from `now`."""
    it = live(**arguments)
    requests = [it.ask("message", text=text) for text in given]
    assert texts(it, now) == [*given]
    hear(it, *[refusal(request.number) for request in requests])
    assert texts(it, now) == []
    assert it.requests.next_attempt(now) == now + 1
    return it, requests


def test_a_message_that_could_not_be_kept_goes_out_again_under_its_id_after_a_pause() -> None:
    it, [request] = held("a")
    assert not request.done
    assert texts(it, 0.9) == []
    assert said(it, 1) == [{"type": "message", "text": "a", "id": "p-1"}]
    assert it.requests.next_attempt(1) == inf  # it is the server's turn
    hear(it, ack(1, 1))
    assert outcome(request) == Message(1, 10, "Mina", "a")
    assert it.requests.next_attempt(1) == inf


def test_the_pauses_grow_and_begin_anew_once_something_is_kept() -> None:
    it, [request] = held("a")
    now = 0.0
    for pause in (1, 2, 4, 8):
        assert it.requests.next_attempt(now) == now + pause
        now += pause
        assert texts(it, now) == ["a"]
        hear(it, refusal(1))
        assert texts(it, now) == []
    hear(it, AVAILABLE)
    assert texts(it, now) == ["a"]
    hear(it, ack(1, 1))
    assert request.done
    it.ask("message", text="b")
    assert texts(it, now) == ["b"]
    hear(it, refusal(2))
    assert texts(it, now) == []
    assert it.requests.next_attempt(now) == now + 1


def test_available_ends_the_pause_and_unavailable_does_not() -> None:
    it, _ = held("a")
    hear(it, UNAVAILABLE)
    assert texts(it, 0) == []
    hear(it, AVAILABLE)
    assert texts(it, 0) == ["a"]


def test_what_the_server_says_of_itself_is_told_and_holds_nothing_back() -> None:
    it = live()
    it.ask("message", text="a")
    assert texts(it) == ["a"]
    assert hear(it, UNAVAILABLE, UNAVAILABLE, message(1), ack(1, 2), AVAILABLE, AVAILABLE) == [
        Notice("unavailable", "Redis is away"),
        Message(1, 10, "Zoe", "hi"),
        Notice("available", "Redis is back"),
    ]
    assert hear(it, UNAVAILABLE) == [Notice("unavailable", "Redis is away")]
    it.ask("message", text="b")
    assert texts(it) == ["b"]


@pytest.mark.parametrize("echo", [False, True])
def test_what_is_refused_and_then_kept_is_told_too_where_the_server_says_nothing(echo: bool) -> None:
    it = live(echo=echo)
    it.ask("message", text="a")
    it.ask("message", text="b")
    texts(it)
    assert hear(it, refusal(1), message(1), refusal(2)) == [
        Notice("unavailable", "not kept: Redis is away"),
        Message(1, 10, "Zoe", "hi"),
    ]
    texts(it, 0)
    texts(it, 1)
    assert hear(it, refusal(1)) == []
    texts(it, 1)
    texts(it, 3)
    kept = message(2, "a", "Mina", id="p-1") if echo else ack(1, 2)
    assert hear(it, kept)[echo:] == [Notice("available", "messages are kept again")]
    texts(it, 3)
    assert hear(it, message(3, "b", "Mina", id="p-2") if echo else ack(2, 3))[echo:] == []


def test_a_server_that_says_it_too_is_heard_once() -> None:
    it, _ = held("a")
    assert hear(it, UNAVAILABLE) == []
    texts(it, 1)
    assert hear(it, ack(1, 1)) == []  # how it is now, it will say itself
    assert hear(it, AVAILABLE) == [Notice("available", "Redis is back")]
    it.ask("message", text="b")
    texts(it, 1)
    assert hear(it, UNAVAILABLE, refusal(2)) == [Notice("unavailable", "Redis is away")]


def test_on_another_connection_it_is_told_anew() -> None:
    it, _ = held("a")
    again(it, recovered=True)
    texts(it, 0)
    assert hear(it, refusal(1)) == [Notice("unavailable", "not kept: Redis is away")]


def test_notices_of_a_later_server_are_passed_on() -> None:
    later = line("notice", code="of_the_future", detail="?")
    assert hear(live(), later, later) == [Notice("of_the_future", "?")] * 2


def test_until_one_is_kept_only_the_first_is_tried_and_then_all_follow_in_order() -> None:
    it, _ = held("a", "b", "c")
    it.ask("message", text="d")
    assert texts(it, 1) == ["a"]
    assert texts(it, 100) == []
    hear(it, refusal(1))
    assert texts(it, 100) == []
    assert texts(it, 102) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 102) == ["b", "c", "d"]


def test_nothing_is_written_before_all_that_was_on_its_way_is_answered() -> None:
    it = live()
    for text in "abcd":
        it.ask("message", text=text)
    assert texts(it) == ["a", "b", "c", "d"]
    hear(it, refusal(3))
    it.ask("message", text="e")
    assert texts(it, 100) == []
    assert hear(it, ack(2, 1)) == []  # that is no word of the others yet
    assert texts(it, 100) == []
    hear(it, refusal(1), AVAILABLE)
    assert texts(it, 100) == []
    hear(it, refusal(4))
    assert texts(it, 100) == []
    assert texts(it, 101) == ["a"]
    hear(it, ack(1, 2))
    assert texts(it, 101) == ["c", "d", "e"]


def test_if_the_last_one_on_its_way_was_kept_the_others_follow_at_once() -> None:
    it = live()
    for text in "abc":
        it.ask("message", text=text)
    texts(it)
    hear(it, refusal(1), refusal(2), ack(3, 1))
    it.ask("message", text="d")
    assert texts(it) == ["a", "b", "d"]


@pytest.mark.parametrize("echo", [False, True])
def test_a_message_that_turns_up_after_all_is_not_sent_again(echo: bool) -> None:
    it, [request] = held("a", echo=echo)
    it.ask("message", text="b")
    place = message(2, "a", "Mina", id="p-1") if echo else ack(1, 2)
    news = hear(it, message(1), place, message(3))
    assert len([event for event in news if isinstance(event, Message)]) == 2 + echo
    assert outcome(request) == Message(2, 20, "Mina", "a")
    assert it.seq == 3
    assert texts(it, 0) == ["b"]


def test_a_duplicate_is_kept_too() -> None:
    it, [request, _] = held("a", "b")
    hear(it, message(1))
    texts(it, 1)
    hear(it, ack(1, 1, duplicate=True), message(2))
    assert outcome(request) == Message(1, 10, "Mina", "a")
    assert it.seq == 2
    assert texts(it, 1) == ["b"]


def test_whichever_answer_comes_last_a_message_is_kept_once() -> None:
    """Sent again while the first refusal was still on its way: that one comes first, and then the message's place."""
    it, [request] = held("a")
    assert texts(it, 1) == ["a"]
    hear(it, refusal(1), refusal(1))
    assert not request.done
    hear(it, ack(1, 1), ack(1, 1, duplicate=True))
    assert outcome(request) == Message(1, 10, "Mina", "a")
    assert texts(it, 100) == []
    assert not it.requests.awaited


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("whisper", {"to": "Zoe", "text": "psst"}),
        ("rename", {"to": "Zoe"}),
        ("join", {"room": "ops"}),
        ("members", {}),
        ("rooms", {}),
        ("history", {}),
    ],
)
def test_anything_else_is_refused_at_once(kind: str, fields: dict[str, Any]) -> None:
    it = live()
    request = it.ask(kind, **fields)
    [frame] = said(it)
    about = {key: frame[key] for key in ("id", "ref") if key in frame}
    hear(it, line("error", code="unavailable", detail="Redis is away", **about))
    refused = outcome(request)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.detail) == ("unavailable", "Redis is away")
    it.ask("message", text="a")
    assert texts(it) == ["a"]


def test_questions_do_not_wait_behind_what_is_held_back() -> None:
    it, _ = held("a")
    it.ask("message", text="b")
    for kind in ("ping", "members", "rooms", "history", "rename"):
        it.ask(kind)
    it.ask("whisper", to="Zoe", text="psst")
    assert texts(it, 0) == ["ping", "members", "rooms", "history", "rename", "psst"]


def test_a_join_waits_for_what_was_said_before_it() -> None:
    it, _ = held("a")
    it.ask("join", room="ops")
    it.ask("message", text="b")
    it.ask("ping")
    assert texts(it, 0) == []
    assert texts(it, 1) == ["a"]
    assert texts(it, 1) == []
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["join"]
    hear(it, welcome(room="ops", ref="p-2"))
    assert texts(it, 1) == ["b", "ping"]


def test_a_message_is_not_said_again_in_another_room() -> None:
    it = live()
    it.ask("message", text="a")
    it.ask("join", room="ops")
    assert texts(it) == ["a"]  # it may have to be said again, and is meant for this room
    hear(it, refusal(1))
    assert texts(it, 0) == []
    assert texts(it, 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["join"]


def test_after_290_seconds_it_is_refused_whether_or_not_it_was_ever_written() -> None:
    it, [first] = held("a", now=5)
    second = it.ask("message", text="b")
    assert texts(it, 10) == ["a"]
    hear(it, refusal(1))
    texts(it, 10)
    third = it.ask("message", text="c")
    assert texts(it, 4.9 + RESEND_WITHIN) == ["a"]
    hear(it, refusal(1))
    assert texts(it, 5.1 + RESEND_WITHIN) == []
    assert (first.done, second.done, third.done) == (True, False, False)
    assert texts(it, 11 + RESEND_WITHIN) == ["c"]
    assert (second.done, third.done) == (True, False)
    hear(it, refusal(3))
    assert texts(it, 6 + 2 * RESEND_WITHIN) == []
    for request in (first, second, third):
        refused = outcome(request)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.detail) == ("unavailable", "not kept: Redis is away")
    assert len({id(request.error) for request in (first, second, third)}) == 3
    it.ask("message", text="d")
    assert texts(it, 6 + 2 * RESEND_WITHIN) == ["d"]


def test_what_was_never_written_is_sent_however_late_once_the_server_is_back() -> None:
    it, _ = held("a", max_in_flight=1)
    late = [it.ask("message", text=text) for text in "bc"]
    assert texts(it, 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["b"]
    hear(it, ack(2, 2))
    assert texts(it, 2 * RESEND_WITHIN) == ["c"]
    assert [request.done for request in late] == [True, False]


def test_a_refused_message_is_not_sent_so_late_that_it_could_be_kept_twice() -> None:
    it, [_, second] = held("a", "b")
    assert texts(it, RESEND_WITHIN - 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, RESEND_WITHIN + 1) == []
    assert isinstance(outcome(second), Refused)


def test_on_another_connection_it_is_tried_at_once_and_in_order() -> None:
    it = live()
    for text in "abc":
        it.ask("message", text=text)
    texts(it)
    hear(it, refusal(2))
    assert it.requests.next_attempt(0) == inf
    again(it, recovered=True)
    it.ask("message", text="d")
    assert texts(it, 0) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 0) == ["b", "c", "d"]


def test_what_happened_last_tells_why_it_was_given_up() -> None:
    it, [first, second] = held("a", "b")
    assert texts(it, 1) == ["a"]
    again(it, recovered=True)  # nobody knows of the first one any more; the second one was refused
    assert texts(it, RESEND_WITHIN + 1) == []
    assert isinstance(outcome(first), Disconnected)
    assert isinstance(outcome(second), Refused)


def test_where_there_is_no_connection_nothing_is_due() -> None:
    it, _ = held("a")
    it.connection_lost()
    assert it.requests.next_attempt(0) == inf


def test_what_is_withdrawn_is_not_sent_again() -> None:
    it, requests = held("a", "b")
    it.requests.withdraw(requests[0])
    assert texts(it, 1) == ["b"]
    it.requests.withdraw(requests[1])
    assert not it.requests.awaited
    hear(it, refusal(2))
    assert not it.requests.awaited
    assert texts(it, 100) == []
    it.ask("message", text="c")
    assert texts(it, 100) == ["c"]


def test_a_refusal_that_nobody_waits_for_holds_the_others_back_too() -> None:
    it, [first, _] = held("a", "b")
    assert texts(it, 1) == ["a"]
    it.requests.withdraw(first)
    hear(it, refusal(1))
    assert texts(it, 1) == []
    assert it.requests.next_attempt(1) == 3
    assert texts(it, 3) == ["b"]


def test_the_end_tells_who_was_refused_and_who_cannot_know() -> None:
    it = live()
    refused, unsure = it.ask("message", text="a"), it.ask("message", text="b")
    texts(it)
    hear(it, refusal(1))
    texts(it)
    waiting, question = it.ask("message", text="c"), it.ask("ping")
    texts(it)
    it.requests.fail_all(lambda: ChatError("over"))
    assert [type(outcome(request)) for request in (refused, unsure, waiting, question)] == [
        Refused,
        ChatError,
        Refused,
        ChatError,
    ]


def test_goodbye_is_said_once_all_is_kept() -> None:
    it, _ = held("a")
    it.leaving = True
    assert texts(it, 0) == []
    assert texts(it, 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["bye"]


# Any schedule of refusals, late replies and broken connections


class Model:
    """A server that keeps each id once, and may refuse what it keeps a moment later."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.late: list[int] = []  # refused, and kept all the same

    def take(self, number: int, how: str) -> bytes:
        if number in self.kept:
            return ack(number, self.kept.index(number) + 1, duplicate=True)
        if how == "keep":
            self.late = [other for other in self.late if other != number]
            return self.keep(number)
        if how == "late" and number not in self.late:
            self.late.append(number)
        return refusal(number)

    def keep(self, number: int) -> bytes:
        self.kept.append(number)
        return ack(number, len(self.kept))

    def settle(self) -> list[bytes]:
        late, self.late = self.late, []
        return [*map(self.keep, late)]

    def greet(self, seq: int) -> list[bytes]:
        here = welcome(seq=len(self.kept), ts=len(self.kept) * 10, recovered=True)
        return [here, *[ack(number, seq) for seq, number in enumerate(self.kept[seq:], seq + 1)]]


class Sender:
    """A client that checks what it is about to write."""

    def __init__(self) -> None:
        self.protocol = client_protocol(max_in_flight=4)
        self.protocol.handshake()
        self.sent: list[Request] = []
        self.overtaken: set[tuple[int, int]] = set()
        """A message that was refused, and one behind it that had been written when that was heard, or lost."""
        self._written: set[int] = set()
        self._refused = False  # whether that is the last it has heard about a message

    def write(self, now: float) -> list[int]:
        first = [request.number for request in self.sent if not request.done][:1]
        numbers = [int(frame["id"][2:]) for frame in said(self.protocol, now)]
        assert not self._refused or numbers in ([], first)
        self._written.update(numbers)
        return numbers

    def hear(self, frame: bytes) -> None:
        self.note(frame)
        kind = json.loads(frame)["type"]
        self._refused = kind == "error" or (self._refused and kind != "ack")
        hear(self.protocol, frame)

    def note(self, frame: bytes) -> None:
        fields = json.loads(frame)
        if fields["type"] == "error":
            number = int(fields["id"][2:])
            self.overtaken |= {(number, other) for other in self._written if other > number}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.integers(1, 3)),
        st.tuples(st.sampled_from(["keep", "refuse", "late"]), st.integers(1, 3)),
        st.tuples(st.just("arrive"), st.integers(1, 4)),
        st.tuples(st.sampled_from(["wait", "available", "settle", "break"]), st.just(1)),
    ),
    max_size=60,
)
END = [("break", 1), ("settle", 1), ("keep", 9), ("arrive", 99)]


@given(STEPS)
def test_every_message_is_kept_once_and_only_what_was_in_flight_overtakes(steps: list[tuple[str, int]]) -> None:
    model, sender, now = Model(), Sender(), 0.0
    sender.hear(welcome())
    up: list[int] = []
    down: list[bytes] = []
    for step, n in [*steps, *END * (2 + len(steps))]:
        if step == "say":
            sender.sent += [sender.protocol.ask("message", text="x") for _ in range(n)]
        elif step in ("keep", "refuse", "late"):
            down += [model.take(number, step) for number in up[:n]]
            del up[:n]
        elif step == "settle":
            down += model.settle()
        elif step == "available":
            down.append(AVAILABLE)
        elif step == "wait":
            now += n
        elif step == "break":
            for frame in down:
                sender.note(frame)
            sender.protocol.connection_lost()
            resume = json.loads(sender.protocol.handshake())["resume"]
            up, down = [], model.greet(resume["seq"])
        if step in ("arrive", "break"):
            for frame in down[:n]:
                sender.hear(frame)
            del down[:n]
        up += sender.write(now)
    assert sender.protocol.seq == len(model.kept)
    assert not sender.protocol.requests.awaited
    for request in sender.sent:  # each was kept once
        assert isinstance(outcome(request), Message)
        assert model.kept.count(request.number) == 1
        assert model.kept[request.value.seq - 1] == request.number
    places = {request.number: request.value.seq for request in sender.sent}
    for first, place in places.items():  # and in order, but for what is not promised
        for other, its_place in places.items():
            assert first >= other or place < its_place or (first, other) in sender.overtaken


# Over sockets

pytestmark = pytest.mark.anyio


async def test_send_returns_once_the_message_is_kept_after_all() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        first = await peer.hear()
        for _ in range(3):
            await peer.say(line("error", code="unavailable", detail="not kept", id=first["id"]))
            assert await peer.hear() == first
        await peer.say(line("ack", id=first["id"], seq=1, ts=10))
        await peer.goodbye()

    async with scripted.scripted(server) as address, dev(address) as room:
        assert await room.send("a") == Message(1, 10, "Mina", "a")


async def test_nobody_waits_longer_than_until_the_server_is_available() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        frames = [await peer.hear() for _ in range(2)]
        for frame in frames:
            await peer.say(line("error", code="unavailable", detail="not kept", id=frame["id"]))
        await peer.say(UNAVAILABLE)
        ping = await peer.hear()
        assert ping["type"] == "ping"
        await peer.say(line("pong", ref=ping["ref"]), AVAILABLE)
        for seq, frame in enumerate(frames, 1):
            assert await peer.hear() == frame
            await peer.say(line("ack", id=frame["id"], seq=seq, ts=seq * 10))
        await peer.goodbye()

    async with (
        scripted.scripted(server) as address,
        dev(address, backoff=1e9, backoff_cap=1e9, ping_timeout=1e9) as room,
        anyio.create_task_group() as tasks,
    ):
        for text in "ab":
            tasks.start_soon(room.send, text)
        assert kinds(await take(room, 2)) == [Welcome, Notice]
        await room.ping()
        assert await anext(room) == Notice("available", "Redis is back")


async def test_leaving_does_not_wait_for_ever_for_what_cannot_be_kept() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.hear()
        await peer.say(line("error", code="unavailable", detail="not kept", id=frame["id"]))
        assert await peer.until_end() == []

    async with scripted.scripted(server) as address, anyio.create_task_group() as tasks:
        failed: list[str] = []

        async def send(room: Connection) -> None:
            with pytest.raises(Refused) as refused:
                await room.send("a")
            failed.append(refused.value.code)

        async with dev(address, backoff=1e9, backoff_cap=1e9, close_timeout=0.05) as room:
            tasks.start_soon(send, room)
            assert kinds(await take(room, 2)) == [Welcome, Notice]
        await anyio.wait_all_tasks_blocked()
        assert failed == ["unavailable"]


async def test_a_send_that_is_cancelled_while_it_waits_is_not_said_again() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        first = await peer.hear()
        await peer.say(line("error", code="unavailable", detail="not kept", id=first["id"]))
        second = await peer.hear()
        assert second["text"] == "second"
        await peer.say(line("ack", id=second["id"], seq=1, ts=10))
        await peer.goodbye()

    async with (
        scripted.scripted(server) as address,
        dev(address, backoff=1e9, backoff_cap=1e9) as room,
        anyio.create_task_group() as tasks,
    ):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(room.send, "first")
                assert kinds(await take(room, 2)) == [Welcome, Notice]
                scope.cancel()
        tasks.start_soon(room.send, "second")


async def test_what_one_server_cannot_keep_goes_to_the_next() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.hear()
        await peer.say(line("error", code="unavailable", detail="not kept", id=frame["id"]))

    async def second(peer: Peer) -> None:
        await peer.welcome(recovered=True)
        frame = await peer.hear()
        await peer.say(line("ack", id=frame["id"], seq=1, ts=10))
        await peer.goodbye()

    async with scripted.scripted(first, second) as address, dev(address) as room:
        assert (await room.send("a")).seq == 1
        assert kinds(await take(room, 4)) == [Welcome, Notice, Lost, Recovered]


async def test_a_store_that_is_away_for_a_while_keeps_everything_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with (
        served(ChatAPI(broker=SQLiteBroker(path))) as address,
        dev(address) as mina,
        dev(address, name="Zoe") as zoe,
        anyio.create_task_group() as tasks,
    ):
        assert (await mina.send("before")).seq == 1
        path.rename(tmp_path / "elsewhere")
        kept: list[Message] = []

        async def say(part: int) -> None:
            kept.extend([await mina.send(f"{part}.{n}") for n in range(5)])

        async with anyio.create_task_group() as saying:
            for part in range(4):
                saying.start_soon(say, part)
            while not mina._protocol.requests.holds_back:
                await anyio.lowlevel.checkpoint()
            assert await zoe.members() == ["Mina", "Zoe"]
            (tmp_path / "elsewhere").rename(path)
        heard = (await take(zoe, 22))[1:]
        assert [event.seq for event in heard if isinstance(event, Message)] == list(range(1, 22))
        assert heard[1:] == sorted(kept, key=lambda message: message.seq)
        for part in range(4):
            assert [m.text for m in kept if m.text.startswith(f"{part}.")] == [f"{part}.{n}" for n in range(5)]
        tasks.cancel_scope.cancel()
