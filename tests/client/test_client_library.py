"""The client library over real sockets: against servers that follow a script, and against our own."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from scripted import Peer, dev, kinds, line, message, scripted, served, take

from chatapi import ChatAPI
from chatapi.client import event_queue, reconnect
from chatapi.client.blocking import ConnectArguments
from chatapi.client.connection import Connection, connect
from chatapi.client.events import (
    EventsUnread,
    Gap,
    Lost,
    ProtocolError,
    Recovered,
    SendRefused,
    State,
    Unreachable,
    Welcome,
)
from chatapi.errors import AddressError, ChatError, Disconnected, NotDelivered, Refused, TextTooLong
from chatapi.events import History, Joined, Left, Message, Renamed, Whisper

pytestmark = pytest.mark.anyio

# Coming in


async def test_a_connection_from_hello_to_goodbye() -> None:
    async def server(peer: Peer) -> None:
        shake = await peer.welcome(name="Mína")
        assert shake == {"name": "Mina", "room": "dev", "protocol": "json", "echo": True, "history": 2, "token": "t"}
        await peer.say(line("joined", seq=0, name="Zoe"), message(1), line("whisper", ts=1, name="Zoe", text="psst"))
        await peer.goodbye()

    async with scripted(server) as address:
        async with dev(address, echo=True, history=2, token="t") as room:
            assert (room.name, room.room, room.state) == ("Mína", "dev", State.CONNECTED)
            assert repr(room) == "<Connection 'Mína' in 'dev', connected>"
            news = await take(room, 4)
            assert kinds(news) == [Welcome, Joined, Message, Whisper]
        assert room.state is State.CLOSED
        assert [event async for event in room] == []
        with pytest.raises(Disconnected) as ended:
            await room.send("late")
        assert ended.value.reason.code == "bye"


async def test_a_refused_handshake_is_raised() -> None:
    async def server(peer: Peer) -> None:
        await peer.hear()
        await peer.say(line("error", code="name_taken", detail="'Mina' is already in 'dev'", after=4.5))

    async with scripted(server) as address:
        with pytest.raises(Refused) as refused:
            async with dev(address):
                raise AssertionError
        assert (refused.value.code, refused.value.after) == ("name_taken", 4.5)


async def test_a_goodbye_instead_of_a_welcome_is_raised() -> None:
    async def server(peer: Peer) -> None:
        await peer.hear()
        await peer.say(line("bye", code="draining", detail="later", reconnect=True, after=5))

    async with scripted(server) as address:
        with pytest.raises(Disconnected, match="draining: later"):
            async with dev(address):
                raise AssertionError


async def test_what_is_no_chat_server_is_told_apart() -> None:
    async def silent(peer: Peer) -> None:
        await peer.until_end()

    async def ends(peer: Peer) -> None:
        await peer.hear()

    async def other(peer: Peer) -> None:
        await peer.say(b"220 mail.example.org ESMTP\r\n")
        await peer.until_end()

    for script, error, words in [
        (silent, Unreachable, "no welcome from 127.0.0.1"),
        (ends, Unreachable, "ended during the handshake"),
        (other, ProtocolError, "answers with lines, not with the JSON protocol: .* '220 mail.example.org ESMTP'"),
    ]:
        async with scripted(script) as address:
            with pytest.raises(error, match=words):
                async with dev(address, connect_timeout=0.1 if script is silent else 10):
                    raise AssertionError


async def test_where_nobody_listens() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_address)[1]
    with pytest.raises(Unreachable, match=f"cannot reach 127.0.0.1:{port}: Connection refused"):
        async with dev(f"127.0.0.1:{port}"):
            raise AssertionError
    with pytest.raises(AddressError):
        async with dev("localhost"):
            raise AssertionError
    with pytest.raises(ValueError, match="max_events"):
        async with dev("127.0.0.1:1", max_events=0):
            raise AssertionError


# Leaving


async def test_an_error_in_the_program_comes_out_as_it_is_after_a_goodbye() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.goodbye()

    async with scripted(server) as address:
        with pytest.raises(KeyError, match="mine"):
            async with dev(address):
                raise KeyError("mine")


async def test_leaving_waits_until_everything_is_acknowledged() -> None:
    asked = anyio.Event()

    async def server(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.hear()
        asked.set()
        await anyio.wait_all_tasks_blocked()
        await peer.say(line("ack", id=frame["id"], seq=1, ts=10))
        await peer.goodbye()

    async with scripted(server) as address, anyio.create_task_group() as tasks:
        sent: list[Message] = []
        async with dev(address) as room:

            async def send() -> None:
                sent.append(await room.send("last words"))

            tasks.start_soon(send)
            await asked.wait()
        assert [m.text for m in sent] == ["last words"]


async def test_nothing_new_is_said_while_leaving() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await tried.wait()
        await peer.goodbye()

    tried = anyio.Event()
    async with scripted(server) as address, dev(address) as room, anyio.create_task_group() as tasks:
        tasks.start_soon(room.close)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Disconnected, match="being closed"):
            await room.send("late")
        tried.set()


async def test_leaving_does_not_wait_for_ever() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        assert (await peer.until_end())[0]["text"] == "x"

    async with scripted(server) as address, anyio.create_task_group() as tasks:
        failed = anyio.Event()
        async with dev(address, close_timeout=0.05) as room:

            async def send() -> None:
                with pytest.raises(Disconnected):
                    await room.send("x")
                failed.set()

            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
        await failed.wait()


async def test_close_lets_the_rest_be_read_and_takes_no_more() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1))
        await peer.hear()
        await peer.say(line("pong", ref="?"), message(2))
        await peer.say(line("bye", code="bye", detail="", reconnect=False, after=0))
        await peer.until_end()

    async with scripted(server) as address, dev(address) as room:
        assert kinds(await take(room, 2)) == [Welcome, Message]
        await room.close()
        assert [event async for event in room] == []
        await room.close()


async def test_cancelling_closes_at_once() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        assert await peer.until_end() == []

    async with scripted(server) as address:
        with anyio.CancelScope() as scope:
            async with dev(address):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught


async def test_cancelling_lets_nobody_wait_for_ever() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        assert len(await peer.until_end()) == 1

    async with scripted(server) as address, anyio.create_task_group() as tasks:
        failed: list[str] = []

        async def send(room: Connection) -> None:
            with pytest.raises(Disconnected) as ended:
                await room.send("x")
            failed.append(ended.value.reason.code)

        async def read(room: Connection) -> None:
            failed.extend([type(event).__name__ async for event in room])

        with anyio.CancelScope() as scope:
            async with dev(address) as room:
                tasks.start_soon(send, room)
                tasks.start_soon(read, room)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.sleep_forever()
        await anyio.wait_all_tasks_blocked()
        assert sorted(failed) == ["Welcome", "bye"]


# Saying something


async def test_sends_are_pipelined_and_come_back_with_their_place() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        frames = [await peer.hear() for _ in range(3)]  # all of them before the first answer
        assert sorted(frame["text"] for frame in frames) == ["a", "b", "c"]
        assert len({frame["id"] for frame in frames}) == 3
        assert all(len(frame["id"]) <= 64 for frame in frames)
        for n, frame in enumerate(frames, 1):
            await peer.say(line("ack", id=frame["id"], seq=n, ts=n * 10))
        await peer.goodbye()

    async with scripted(server) as address, dev(address) as room:
        got: list[Message] = []

        async def send(text: str) -> None:
            message = await room.send(text)
            assert message.text == text
            got.append(message)

        async with anyio.create_task_group() as tasks:
            for text in "abc":
                tasks.start_soon(send, text)
        assert sorted(m.seq for m in got) == [1, 2, 3]
        assert {m.name for m in got} == {"Mina"}


async def test_every_question_and_its_answer() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        refusals = iter(
            [line("error", code="not_delivered", detail="nobody"), line("error", code="name_taken", detail="no")]
        )
        while (frame := await peer.hear())["type"] != "bye":
            ref = {"id": frame["id"]} if "id" in frame else {"ref": frame["ref"]}
            match frame:
                case {"type": "whisper", "to": "Zoe", "text": "psst"}:
                    answer = line("ack", seq=None, ts=1, **ref)
                case {"type": "whisper"} | {"type": "rename", "to": "Zoe"}:
                    answer = line(**{**json.loads(next(refusals)), "kind": "error"}, **ref)
                case {"type": "rename", "to": to}:
                    answer = line("renamed", seq=0, name="Mina", to=to, **ref)
                case {"type": "join", "room": "full"}:
                    answer = line("error", code="room_full", detail="no", **ref)
                case {"type": "join", "room": other}:
                    named = {"name": "Mia", "room": other, "session": "key", "epoch": "o", "seq": 9, "ts": 90}
                    answer = line("welcome", **named, members=["Mia"], count=1, recovered=None, limits={}, **ref)
                case {"type": "members", "after": "Mia"}:
                    answer = line("members", members=["Zoe"], count=2, **ref)
                case {"type": "members"}:
                    answer = line("members", members=["Mia"], count=2, next="Mia", **ref)
                case {"type": "rooms"}:
                    answer = line("rooms", rooms=[{"name": "dev", "count": 2}], count=1, **ref)
                case {"type": "history", "before": 5, "limit": 1}:
                    said = {"seq": 4, "ts": 40, "name": "Zoe", "text": "old"}
                    answer = line("history", messages=[said], more=True, **ref)
                case {"type": "history", "limit": limit}:
                    answer = line("error", code="bad_frame", detail=f"{limit}", **ref)
                case {"type": "message", "text": ""}:
                    answer = line("error", code="empty_text", detail="empty", **ref)
                case {"type": "message"}:
                    answer = line("error", code="text_too_long", detail="long", **ref)
                case _:
                    answer = line("pong", **ref)
            await peer.say(answer)

    async with scripted(server) as address, dev(address) as room:
        await room.whisper("Zoe", "psst")
        with pytest.raises(NotDelivered, match="nobody"):
            await room.whisper("Ada", "psst")
        with pytest.raises(Refused, match="name_taken"):
            await room.rename("Zoe")
        await room.rename("Mia")
        assert room.name == "Mia"
        with pytest.raises(Refused, match="room_full"):
            await room.join("full")
        assert (await room.join("ops")).room == room.room == "ops"
        assert await room.members() == ["Mia", "Zoe"]
        assert await room.rooms() == {"dev": 2}
        assert await room.history(before=5, limit=1) == History((Message(4, 40, "Zoe", "old"),), True)
        with pytest.raises(SendRefused, match="bad_frame: 100"):
            await room.history()
        with pytest.raises(SendRefused) as refused:
            await room.send("")
        assert refused.value.code == "empty_text"
        with pytest.raises(TextTooLong, match="long"):
            await room.send("x")
        with pytest.raises(TextTooLong):
            await room.send("x" * 70_000)
        assert await room.ping() >= 0
        assert kinds(await take(room, 3)) == [Welcome, Renamed, Welcome]


@pytest.mark.parametrize("kind", ["members", "rooms", "history"])
async def test_answers_that_make_no_sense(kind: str) -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        frame = await peer.hear()
        await peer.say(line(kind, ref=frame["ref"], rooms=[1], messages=[{}]))
        await peer.goodbye()

    async with scripted(server) as address, dev(address) as room:
        with pytest.raises(ProtocolError):
            await getattr(room, kind)()


async def test_what_is_in_flight_is_bounded() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        for n in range(1, 6):
            frame = await peer.hear()
            with pytest.raises(TimeoutError), anyio.fail_after(0):
                await peer.hear()
            await peer.say(line("ack", id=frame["id"], seq=n, ts=n))
        await peer.goodbye()

    async with scripted(server) as address, dev(address, max_in_flight=1) as room, anyio.create_task_group() as tasks:
        for n in range(5):
            tasks.start_soon(room.send, str(n))


async def test_a_send_that_is_cancelled_before_it_was_written_is_never_said() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        first = await peer.hear()
        await cancelled.wait()
        await peer.say(line("ack", id=first["id"], seq=1, ts=1))
        third = await peer.hear()
        assert third["text"] == "third"
        await peer.say(line("ack", id=third["id"], seq=2, ts=2))
        await peer.goodbye()

    cancelled = anyio.Event()
    async with scripted(server) as address, dev(address, max_in_flight=1) as room, anyio.create_task_group() as tasks:
        tasks.start_soon(room.send, "first")
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(room.send, "second")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        tasks.start_soon(room.send, "third")
        await anyio.wait_all_tasks_blocked()
        cancelled.set()


# Coming back


async def test_a_lost_connection_is_made_again_and_nothing_is_missing() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1), message(2), message(3)[:-3])

    async def second(peer: Peer) -> None:
        shake = await peer.welcome(seq=4, ts=40, recovered=True)
        assert shake["resume"] == {"epoch": "e", "seq": 2, "ts": 20, "session": "key"}
        await peer.say(message(3), message(4))
        await peer.goodbye()

    async with scripted(first, second) as address, dev(address) as room:
        news = await take(room, 7)
        assert kinds(news) == [Welcome, Message, Message, Lost, Recovered, Message, Message]
        assert isinstance(news[3], Lost)
        assert news[3].reason.code == "connection_lost"
        assert [n.seq for n in news if isinstance(n, Message)] == [1, 2, 3, 4]


async def test_a_reset_is_a_lost_connection_too_and_a_gap_is_told() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome(seq=7, ts=70)
        peer.reset()

    async def second(peer: Peer) -> None:
        await peer.welcome(epoch="f", seq=2, ts=20, recovered=False, reason="unknown_epoch")
        await peer.say(message(3))
        await peer.goodbye()

    async with scripted(first, second) as address, dev(address) as room:
        news = await take(room, 4)
        assert kinds(news) == [Welcome, Lost, Gap, Message]
        assert isinstance(news[2], Gap)
        assert (news[2].reason, news[2].seq) == ("unknown_epoch", 7)


async def test_what_was_not_acknowledged_is_said_again_under_its_old_id() -> None:
    ids: list[str] = []

    async def first(peer: Peer) -> None:
        await peer.welcome()
        ids.append((await peer.hear())["id"])

    async def second(peer: Peer) -> None:
        await peer.welcome(seq=1, ts=10, recovered=True)
        await peer.say(message(1))
        frame = await peer.hear()
        assert (frame["text"], frame["id"]) == ("once", ids[0])
        await peer.say(line("ack", id=ids[0], seq=1, ts=10, duplicate=True), message(2))
        await peer.goodbye()

    async with scripted(first, second) as address, dev(address) as room:
        assert await room.send("once") == Message(1, 10, "Mina", "once")
        assert kinds(await take(room, 5)) == [Welcome, Lost, Recovered, Message, Message]


async def test_a_hole_makes_it_ask_again_from_where_it_was() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1), message(3))
        await peer.until_end()

    async def second(peer: Peer) -> None:
        shake = await peer.welcome(seq=3, ts=30, recovered=True)
        assert shake["resume"]["seq"] == 1
        await peer.say(message(2), message(3))
        await peer.goodbye()

    async with scripted(first, second) as address, dev(address) as room:
        news = await take(room, 6)
        assert [n.seq for n in news if isinstance(n, Message)] == [1, 2, 3]
        assert isinstance(news[2], Lost)
        assert "event 3 came after 1" in news[2].detail


@pytest.mark.parametrize(
    "refusal",
    [
        line("error", code="name_taken", detail="soon", after=0.001),
        line("error", code="draining", detail="later"),
        line("error", code="server_full", detail="later"),
        line("error", code="room_full", detail="later"),
        line("error", code="handshake_timeout", detail="slow"),
        line("bye", code="draining", detail="later", reconnect=True, after=0),
        b"garbage\n",
        b"",
    ],
)
async def test_what_passes_is_waited_for(refusal: bytes) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()

    async def refuses(peer: Peer) -> None:
        await peer.hear()
        await peer.say(refusal)

    async def second(peer: Peer) -> None:
        await peer.welcome(recovered=True)
        await peer.goodbye()

    async with scripted(first, refuses, refuses, second) as address, dev(address) as room:
        assert kinds(await take(room, 3)) == [Welcome, Lost, Recovered]


@pytest.mark.parametrize(
    "refusal",
    [
        line("error", code="name_taken", detail="no"),
        line("error", code="forbidden", detail="no"),
        line("bye", code="banned", detail="no", reconnect=False, after=0),
    ],
)
async def test_what_does_not_pass_ends_it(refusal: bytes) -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.hear()

    async def refuses(peer: Peer) -> None:
        await peer.hear()
        await peer.say(refusal)

    async with scripted(first, refuses) as address, dev(address) as room:
        with pytest.raises(Disconnected) as ended:
            await room.send("x")
        assert ended.value.reason.code == json.loads(refusal)["code"]
        assert isinstance(ended.value.__cause__, Refused) == (b"error" in refusal)
        assert room.state is State.CLOSED
        assert kinds(await take(room, 2)) == [Welcome, Lost]
        for _ in range(2):
            with pytest.raises(Disconnected):
                await anext(room)
        with pytest.raises(Disconnected):
            await room.members()


async def test_a_goodbye_without_return_ends_it() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(message(1), line("bye", code="kicked", detail="out", reconnect=False, after=0))

    async with scripted(server) as address:
        with pytest.raises(Disconnected, match="kicked: out"):
            async with dev(address) as room:
                await take(room, 3)


async def test_who_is_replaced_comes_back_since_it_was_an_older_attempt_of_its_own() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(line("bye", code="replaced", detail="taken over", reconnect=False, after=0))

    async def second(peer: Peer) -> None:
        await peer.welcome(recovered=True)
        await peer.say(message(1))
        await peer.until_end()

    async with scripted(first, second) as address, dev(address) as room:
        welcome, lost, recovered, said = await take(room, 4)
        assert kinds([welcome, lost, recovered, said]) == [Welcome, Lost, Recovered, Message]
        assert lost.reason.code == "replaced"


async def test_without_reconnecting_a_lost_connection_is_the_end() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()

    async with scripted(server) as address, dev(address, reconnect=False) as room:
        await anext(room)
        with pytest.raises(Disconnected, match="connection_lost"):
            await anext(room)


async def test_a_dead_server_is_noticed() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()
        assert await peer.hear() == {"type": "ping"}
        await peer.say(line("pong"))
        assert await peer.until_end() == [{"type": "ping"}]

    async def second(peer: Peer) -> None:
        await peer.welcome(recovered=True)
        while (await peer.hear())["type"] == "ping":
            await peer.say(line("pong"))

    async with scripted(first, second) as address, dev(address, ping_after=0.02, ping_timeout=1) as room:
        news = await take(room, 3)
        assert isinstance(news[1], Lost)
        assert "nothing came for 1.02 s" in news[1].detail


async def test_leaving_while_away_does_not_wait() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()

    async with scripted(server) as address, dev(address, backoff=1e9, backoff_cap=1e9, close_timeout=1e9) as room:
        assert kinds(await take(room, 2)) == [Welcome, Lost]
        assert room.state is State.RECONNECTING


def test_the_delay_grows_up_to_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect.random, "uniform", lambda low, high: (low, high))
    times = {"connect_timeout": 1, "close_timeout": 1, "ping_after": 1, "ping_timeout": 1}
    pace = reconnect.Timing(**times, backoff=0.1, backoff_cap=15)
    assert [pace.delay(n) for n in (0, 1, 2, 7, 8, 10**6)] == [
        (0, 0.1),
        (0, 0.2),
        (0, 0.4),
        (0, 12.8),
        (0, 15),
        (0, 15),
    ]


# A program that does not read


async def test_a_program_that_does_not_read_stops_the_reading() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(*map(message, range(1, 101)))
        await peer.goodbye()

    async with scripted(server) as address, dev(address, max_events=10) as room:
        await anext(room)
        while len(room._queue) < 10:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert len(room._queue) == 10
        assert [n.seq for n in await take(room, 100) if isinstance(n, Message)] == list(range(1, 101))


async def test_an_answer_behind_unread_events_still_comes() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(*map(message, range(1, 101)))
        frame = await peer.hear()
        await peer.say(line("ack", id=frame["id"], seq=101, ts=1010))
        await peer.goodbye()

    async with scripted(server) as address, dev(address, max_events=10) as room:
        await anext(room)
        assert (await room.send("x")).seq == 101
        assert len(await take(room, 100)) == 100


async def test_too_many_unread_events_are_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_queue, "EXTRA_EVENTS", 20)

    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(*map(message, range(1, 101)))
        await peer.until_end()

    async with scripted(server) as address, dev(address, max_events=10) as room:
        with pytest.raises(EventsUnread):
            await room.send("x")
        with pytest.raises(EventsUnread):
            await room.ping()
        assert [n.seq for n in (await take(room, 101))[1:] if isinstance(n, Message)] == list(range(1, 101))


async def test_a_program_that_only_sends_says_so() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await peer.say(*map(message, range(1, 101)))
        frame = await peer.hear()
        await peer.say(line("ack", id=frame["id"], seq=101, ts=1010))
        await peer.goodbye()

    async with scripted(server) as address, dev(address, max_events=1, events=False) as room:
        assert (await room.send("x")).seq == 101
        assert len(room._queue) == 0
        with pytest.raises(RuntimeError, match="events=False"):
            await anext(room)


async def test_a_bad_line_does_not_fill_the_inbox() -> None:
    async def first(peer: Peer) -> None:
        await peer.welcome()

    async def again(peer: Peer) -> None:
        await peer.welcome(recovered=True)

    async def last(peer: Peer) -> None:
        await peer.welcome(recovered=True)
        done.set()
        await peer.goodbye()

    done = anyio.Event()
    async with scripted(first, *[again] * 5, last) as address, dev(address) as room:
        await done.wait()
        assert kinds(await take(room, 3)) == [Welcome, Lost, Recovered]


async def test_cancelling_the_wait_for_an_event_loses_none() -> None:
    async def server(peer: Peer) -> None:
        await peer.welcome()
        await cancelled.wait()
        await peer.say(message(1))
        await peer.goodbye()

    cancelled = anyio.Event()
    async with scripted(server) as address, dev(address) as room:
        await anext(room)
        with anyio.move_on_after(0.01):
            await anext(room)
        cancelled.set()
        assert await anext(room) == Message(1, 10, "Zoe", "hi")


def test_the_blocking_face_takes_the_same_arguments() -> None:
    parameters = set(inspect.signature(connect).parameters) - {"address"}
    assert parameters == set(ConnectArguments.__annotations__)


def test_all_errors_are_of_one_tree() -> None:
    for error in (Unreachable, SendRefused, EventsUnread, ProtocolError):
        assert issubclass(error, ChatError)


# Against our own server


@asynccontextmanager
async def frail(address: str, patience: list[int]) -> AsyncIterator[str]:
    """A line to the server that breaks after so many bytes from it, connection after connection; then it holds."""
    host, port = address.rsplit(":", 1)

    async def handle(near: anyio.abc.SocketStream) -> None:
        left = patience.pop(0) if patience else 1 << 60
        async with near, await anyio.connect_tcp(host, int(port)) as far, anyio.create_task_group() as tasks:

            async def up() -> None:
                with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    async for data in near:
                        await far.send(data)
                    await far.send_eof()

            tasks.start_soon(up)
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
                while left > 0:
                    data = (await far.receive())[:left]
                    left -= len(data)
                    await near.send(data)
            tasks.cancel_scope.cancel()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_address)[1]}"
        tasks.cancel_scope.cancel()


async def test_two_talk_on_our_own_server() -> None:
    async with served(ChatAPI()) as address, dev(address) as mina, dev(address, name="Zoe") as zoe:
        hello = await mina.send("hello\nthere")
        assert (hello.seq, hello.name) == (1, "Mina")
        assert await zoe.members() == ["Mina", "Zoe"]
        await zoe.whisper("mina", "psst")
        await zoe.rename("Zo")
        assert await mina.rooms() == {"dev": 2}
        assert await mina.ping() >= 0
        with pytest.raises(NotDelivered):
            await mina.whisper("Zoe", "psst")
        with pytest.raises(Refused, match="name_taken"):
            await mina.rename("zo")
        with pytest.raises(TextTooLong):
            await mina.send("x" * 10_000)
        with pytest.raises(SendRefused, match="empty_text"):
            await mina.send("\x1b")
        moved = await zoe.join("ops")
        assert (moved.room, moved.members) == ("ops", ("Zo",))
        assert await mina.history() == History((hello,), more=False)
        assert kinds(await take(mina, 5)) == [Welcome, Joined, Whisper, Renamed, Left]
        assert kinds(await take(zoe, 4)) == [Welcome, Message, Renamed, Welcome]


async def test_history_and_echo_on_our_own_server() -> None:
    async with served(ChatAPI()) as address, dev(address, name="Zoe") as zoe:
        said = [await zoe.send(str(n)) for n in range(5)]
        async with dev(address, history=3, echo=True) as mina:
            said.append(await mina.send("mine"))
            assert (await take(mina, 5))[1:] == said[2:]
            page = await mina.history(limit=2)
            assert (page.messages, page.more) == (tuple(said[4:]), True)
            page = await mina.history(before=page.messages[0].seq)
            assert (page.messages, page.more) == (tuple(said[:4]), False)


async def test_a_name_that_is_taken_on_our_own_server() -> None:
    async with served(ChatAPI()) as address, dev(address):
        with pytest.raises(Refused, match="name_taken"):
            async with dev(address, name="MINA"):
                raise AssertionError


async def test_nothing_is_lost_or_doubled_on_a_line_that_keeps_breaking() -> None:
    async with served(ChatAPI()) as address, frail(address, [900 + 37 * n for n in range(25)]) as line:
        told: list[Message] = []
        async with dev(address, name="Zoe") as zoe, dev(line) as mina:

            async def mina_says(part: int) -> None:
                told.extend([await mina.send(f"m{part}.{n}") for n in range(15)])

            async with anyio.create_task_group() as tasks:
                for part in range(4):
                    tasks.start_soon(mina_says, part)
                told += [await zoe.send(f"z{n}") for n in range(60)]
            last = await zoe.send("last")
            heard: dict[str, list[Message]] = {"Mina": [], "Zoe": []}
            for room in (mina, zoe):
                while not heard[room.name] or last not in (heard[room.name][-1], *told[:1]):
                    event = await anext(room)
                    assert not isinstance(event, Gap)
                    if isinstance(event, Message):
                        heard[room.name].append(event)
                    if room is zoe and len(heard["Zoe"]) == 60:
                        break
        everything = sorted([*told, last], key=lambda m: m.seq)
        assert [m.seq for m in everything] == list(range(1, 122))
        assert heard["Mina"] == [m for m in everything if m.name == "Zoe"]
        assert heard["Zoe"] == [m for m in everything if m.name == "Mina"]
        for part in range(4):
            own = [m.text for m in everything if m.text.startswith(f"m{part}.")]
            assert own == [f"m{part}.{n}" for n in range(15)]


async def test_a_server_that_goes_and_comes_back_leaves_a_gap() -> None:
    async with served(ChatAPI()) as first, served(ChatAPI()) as second:
        lines = [first, second]

        async def handle(near: anyio.abc.SocketStream) -> None:
            host, port = lines.pop(0).rsplit(":", 1)
            async with near, await anyio.connect_tcp(host, int(port)) as far, anyio.create_task_group() as tasks:

                async def pass_on(source: anyio.abc.SocketStream, sink: anyio.abc.SocketStream) -> None:
                    async for data in source:
                        await sink.send(data)
                    tasks.cancel_scope.cancel()

                tasks.start_soon(pass_on, near, far)
                tasks.start_soon(pass_on, far, near)
                if lines:
                    await gone.wait()
                    tasks.cancel_scope.cancel()

        gone = anyio.Event()
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, handle)
            port = listener.extra(anyio.abc.SocketAttribute.local_address)[1]
            async with dev(f"127.0.0.1:{port}") as room:
                assert (await room.send("one")).seq == 1
                gone.set()
                assert kinds(await take(room, 3)) == [Welcome, Lost, Gap]
                assert (await room.send("two")).seq == 1
            tasks.cancel_scope.cancel()
