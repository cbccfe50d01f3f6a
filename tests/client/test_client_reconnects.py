"""The client library comes back to a server that it lost."""

from __future__ import annotations

import json

import pytest
from scripted import Peer, dev, kinds, line, message, scripted, take

from chatapi.client import reconnect
from chatapi.client.events import (
    Gap,
    Lost,
    Recovered,
    State,
    Welcome,
)
from chatapi.errors import Disconnected, Refused
from chatapi.events import Message

pytestmark = pytest.mark.anyio


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
        assert "the server sent seq 3 after seq 1" in news[2].detail


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


async def test_a_client_that_is_replaced_comes_back_because_its_own_older_attempt_replaced_it() -> None:
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
        assert "the server sent nothing for 1.02 s" in news[1].detail


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
