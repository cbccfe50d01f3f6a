"""Each text is kept once, whatever the server's limits, or the client library says that it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from client_protocols import again, client_protocol, hear, line, live, message, outcome, said, texts, welcome
from scripted import Peer as ScriptedPeer
from scripted import dev, scripted
from speakers import Speaker, chat, release

from chatapi import DISCONNECTS, Disconnected, Limits
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import MAX_REWRITTEN_IN_FLIGHT, RESEND_WITHIN, Request
from chatapi.testing import ChatKit

pytestmark = pytest.mark.anyio


UNKNOWN = "it is unknown whether this message was kept"


def limited(**limits: Any) -> ClientProtocol:
    """A client protocol with a server that has named these limits."""
    it = client_protocol()
    it.handshake()
    hear(it, welcome(limits={"frame_bytes": 1000, **limits}))
    return it


def is_unknown(request: Request, why: str = "") -> bool:
    error = outcome(request)
    assert isinstance(error, Disconnected)
    return why in error.detail and UNKNOWN in error.detail and not error.sure


# For how long the server remembers


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        ({}, RESEND_WITHIN),  # an older server
        ({"remember": 300}, 290),
        ({"remember": 3600.0}, 3590),
        ({"remember": 60}, 50),
        ({"remember": 20}, 10),
        ({"remember": 1}, 0.5),
        ({"remember": "long"}, 290),
        ({"remember": -1}, 290),
    ],
)
def test_a_message_is_written_again_as_long_as_the_server_remembers_its_id(
    limits: dict[str, Any], seconds: float
) -> None:
    for late in (False, True):
        it = limited(**limits)
        request = it.ask("message", text="a")
        assert texts(it, 5) == ["a"]
        again(it, recovered=True, limits=limits)
        assert texts(it, 5 + seconds + (0.01 if late else -0.01)) == ([] if late else ["a"])
        assert request.done is late
        assert not late or is_unknown(request, "the connection was lost for too long")


def test_it_counts_from_the_first_writing_over_several_lost_connections() -> None:
    it = limited(remember=60)
    request = it.ask("message", text="a")
    for now in (0, 20, 49):
        assert texts(it, now) == ["a"]
        again(it, recovered=True, limits={"remember": 60})
    assert texts(it, 51) == []
    assert is_unknown(request)


def test_a_server_that_remembers_nothing_is_sent_nothing_twice() -> None:
    it = limited(remember=0)
    request = it.ask("message", text="a")
    assert texts(it, 5) == ["a"]
    again(it, recovered=True, limits={"remember": 0})
    assert texts(it, 5) == []
    assert is_unknown(request)


def test_the_shortest_memory_of_all_the_servers_on_the_way_counts() -> None:
    it = limited(remember=300)
    request = it.ask("message", text="a")
    texts(it, 0)
    again(it, recovered=True, limits={"remember": 20})
    again(it, recovered=True, limits={"remember": 300})
    assert texts(it, 11) == []
    assert is_unknown(request)


def test_a_text_that_was_never_written_is_sent_however_late() -> None:
    it = limited(remember=1)
    it.connection_lost()
    it.ask("message", text="a")
    again(it, recovered=True, limits={"remember": 1})
    assert texts(it, 10_000) == ["a"]


def test_a_text_that_was_refused_for_now_is_not_tried_for_longer_than_its_id_is_known() -> None:
    it = limited(remember=2)
    request = it.ask("message", text="a")
    texts(it, 0)
    hear(it, line("error", code="unavailable", detail="not kept: the disk is full", id="p-1"))
    assert texts(it, 0) == []
    assert texts(it, 1.1) == []
    assert str(outcome(request)) == "unavailable: not kept: the disk is full"


# How many the server remembers


def test_no_more_is_unanswered_than_the_server_remembers_and_whispers_count_too() -> None:
    it = limited(remember_ids=3)
    for text in "abcde":
        it.ask("whisper" if text in "bd" else "message", **({"to": "Zoe"} if text in "bd" else {}), text=text)
    assert texts(it) == ["a", "b", "c"]
    hear(it, line("ack", id="p-2", seq=None, ts=5))
    assert texts(it) == []  # a fourth one would push the first one out
    hear(it, line("ack", id="p-1", seq=1, ts=10))
    assert texts(it) == []  # the first one may come to the server behind the third, in another try
    hear(it, line("ack", id="p-3", seq=2, ts=20))
    assert texts(it) == ["d", "e"]


def test_an_older_server_remembers_1024() -> None:
    it = limited()
    it.requests._max_in_flight = 5000
    for _ in range(2000):
        it.ask("message", text="x")
    written = 0
    while now := len(said(it)):
        written += now
    assert written == 1024


def test_questions_are_not_counted() -> None:
    it = limited(remember_ids=1)
    it.ask("message", text="a")
    it.ask("members")
    it.ask("ping")
    assert texts(it) == ["a", "members", "ping"]


def test_newer_ones_do_not_push_out_what_may_have_to_be_said_again() -> None:
    it = limited(remember_ids=4)
    first = it.ask("message", text="first")
    texts(it)
    for number in range(2, 50):  # whispers that are answered, while the message is not
        it.ask("whisper", to="Zoe", text=f"w{number}")
        texts(it)
        hear(it, line("ack", id=f"p-{number}", seq=None, ts=5))
        if number % 5 == 0:
            again(it, recovered=True, limits={"remember_ids": 4})
    assert it.requests._ids_written == 4
    hear(it, line("ack", id="p-1", seq=1, ts=10))
    assert first.done
    assert texts(it) == ["w5", "w6", "w7", "w8"]


def test_a_server_with_a_smaller_memory_is_not_sent_what_it_may_have_forgotten() -> None:
    it = limited(remember_ids=10)
    requests = [it.ask("message", text=text) for text in "abcde"]
    texts(it)
    again(it, recovered=True, limits={"remember_ids": 2})
    assert texts(it) == []
    assert all(is_unknown(request, "may have forgotten its id") for request in requests)


def test_only_a_few_that_were_written_before_are_on_their_way_at_once() -> None:
    it = live()
    for number in range(20):
        it.ask("message", text=str(number))
    assert len(texts(it)) == 20
    again(it, recovered=True)
    assert texts(it) == [str(number) for number in range(MAX_REWRITTEN_IN_FLIGHT)]
    hear(it, line("ack", id="p-1", seq=1, ts=10, duplicate=True))
    assert texts(it) == [str(MAX_REWRITTEN_IN_FLIGHT)]


def test_nothing_is_written_behind_a_join_before_its_answer() -> None:
    it = live()
    it.ask("join", room="ops")
    it.ask("message", text="a")
    assert texts(it) == ["join"]
    again(it, recovered=True)
    assert texts(it) == ["join"]
    hear(it, line("error", code="room_full", detail="no", ref="p-1"))
    assert texts(it) == ["a"]


# Which session the server knows


@pytest.mark.parametrize(
    "fields",
    [
        {"recovered": True},
        {"recovered": False, "reason": "trimmed"},
        {"recovered": False, "reason": "diverged"},
        {"recovered": False, "reason": "unknown_epoch", "epoch": "e2"},
        {},
    ],
)
def test_a_server_that_does_not_know_the_session_is_sent_nothing_twice(fields: dict[str, Any]) -> None:
    for session in ("key", "another"):
        it = live()
        hear(it, message(1))
        request, whisper = it.ask("message", text="a"), it.ask("whisper", to="Zoe", text="psst")
        texts(it)
        later = it.ask("message", text="b")
        again(it, seq=1, ts=10, session=session, **fields)
        if session == "key":
            assert texts(it) == ["a", "psst", "b"]
            continue
        assert texts(it) == ["b"]
        assert is_unknown(request, "the server no longer knows this session")
        assert "it is unknown whether this whisper was delivered" in str(outcome(whisper))
        assert not later.done


def test_what_was_written_is_unknown_when_the_connection_has_ended_for_good() -> None:
    it = live(max_in_flight=1)
    written, waiting = it.ask("message", text="a"), it.ask("message", text="b")
    texts(it)
    it.requests.fail_all(lambda: Disconnected(DISCONNECTS["kicked"], "out"))
    assert is_unknown(written, "out; ")
    assert str(outcome(waiting)) == "kicked: out"
    assert outcome(waiting).sure


async def test_the_program_is_told_that_it_is_unknown_and_goes_on() -> None:
    for second in ({"session": "another"}, {"limits": {"remember": 0}}):

        async def first(peer: ScriptedPeer) -> None:
            await peer.welcome(limits={"remember": 300})
            assert (await peer.hear())["text"] == "a"

        async def then(peer: ScriptedPeer, second: dict[str, Any] = second) -> None:
            await peer.welcome(recovered=True, **second)
            frame = await peer.hear()
            assert frame["text"] == "b"
            await peer.say(line("ack", id=frame["id"], seq=1, ts=10))
            await peer.goodbye()

        async with scripted(first, then) as address, dev(address) as room:
            with pytest.raises(Disconnected, match=UNKNOWN) as lost:
                await room.send("a")
            assert not lost.value.sure
            assert (await room.send("b")).seq == 1


# What the server does


def test_a_message_that_takes_long_is_not_forgotten_meanwhile() -> None:
    kit = chat(True, Limits(remember=1))
    mina = Speaker(kit)
    release(kit)
    mina.frames()
    mina.send("message", text="x", id="a")
    kit.settle()
    mina.cut("reset")
    again = Speaker(kit, resume=mina.resume())
    again.frames()
    again.send("message", text="x", id="a")
    kit.settle()
    kit.wait(2)
    release(kit)
    assert [(frame["type"], frame["seq"]) for frame in again.frames()] == [("ack", 1), ("ack", 1)]
    again.send("message", text="x", id="a")
    assert again.frame()["duplicate"]
    assert [message.text for message in kit.hub.rooms["dev"].history(5)] == ["x"]


@pytest.mark.parametrize("said_before", [True, False])
async def test_a_session_goes_on_over_a_restart_with_a_store(tmp_path: Path, said_before: bool) -> None:
    def kit(life: int) -> ChatKit:
        return ChatKit(broker=lambda clock: SQLiteBroker(tmp_path / "c.db", clock=clock), keys=f"{'k' * 20}{life}-")

    before = kit(1)
    async with before.running():
        await before.settled()
        mina = Speaker(before)
        await before.settled()
        mina.frames()
        if said_before:
            mina.send("message", text="x", id="a")
            await before.settled()
            mina.frames()
    after = kit(2)
    async with after.running():
        again = Speaker(after, resume=mina.resume())
        await after.settled()
        again.frames()
        assert again.session == mina.session
        made_up = Speaker(after, "Zoe", resume={"session": "short"})
        await after.settled()
        made_up.frames()
        assert made_up.session not in ("short", mina.session)
        refused = Speaker(after, "Zoe", resume={"session": "of nobody that came in".replace(" ", "-")})
        await after.settled()
        assert refused.frame()["code"] == "name_taken"
        assert not after.hub.sessions._before
