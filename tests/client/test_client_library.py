"""The client library over real sockets, against servers that follow a script."""

from __future__ import annotations

import inspect
import json

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from scripted import Peer, dev, kinds, line, message, scripted, take

from chatapi.client import event_queue
from chatapi.client.blocking import ConnectArguments
from chatapi.client.connection import Connection, connect
from chatapi.client.events import (
    EventsUnread,
    Lost,
    ProtocolError,
    Recovered,
    SendRefused,
    State,
    Unreachable,
    Welcome,
)
from chatapi.errors import AddressError, ChatError, Disconnected, NotDelivered, Refused, TextTooLong
from chatapi.events import History, Joined, Message, Renamed, Whisper

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
        (silent, Unreachable, "sent no welcome"),
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


async def says_much_and_acknowledges_one(peer: Peer) -> None:
    await peer.welcome()
    await peer.say(*map(message, range(1, 101)))
    frame = await peer.hear()
    await peer.say(line("ack", id=frame["id"], seq=101, ts=1010))
    await peer.goodbye()


async def test_an_answer_behind_unread_events_still_comes() -> None:
    async with scripted(says_much_and_acknowledges_one) as address, dev(address, max_events=10) as room:
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
    async with (
        scripted(says_much_and_acknowledges_one) as address,
        dev(address, max_events=1, events=False) as room,
    ):
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


async def test_no_more_may_be_in_flight_than_the_server_remembers() -> None:
    with pytest.raises(ValueError, match="1,024"):
        async with connect("localhost:1", name="Mina", room="dev", max_in_flight=1025):
            pass
