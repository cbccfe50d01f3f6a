"""Each text is kept once, whatever the server's limits, or the client library says that it does not know."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from client_protocols import again, client_protocol, hear, line, live, message, outcome, said, texts, welcome
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from profiles import examples
from scripted import Peer as ScriptedPeer
from scripted import dev, scripted
from speakers import Speaker, chat, release

from chatapi import DISCONNECTS, Disconnected, Limits, Message, RefusalCode, Refused
from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.client.events import ProtocolError
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import MAX_REWRITTEN_IN_FLIGHT, RESEND_WITHIN, Request, resend_within
from chatapi.core.entries import AnyEntry
from chatapi.testing import ChatKit, LateBroker, Peer, VirtualClock

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
    assert all(is_unknown(request, "too few messages") for request in requests)


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
        assert is_unknown(request, "the server does not know this session any more")
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


pytestmark = pytest.mark.anyio


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


# The client library's protocol against the real server, on one virtual clock. A hypothesis state machine delays and
# loses bytes in both directions, lets time pass, starts the server anew, and has it forget sessions. The bytes between
# them arrive within the margin that the client allows for, or not at all.

NUMBERS = count()


class Script(RuleBasedStateMachine):
    """One client of the library, which says a text only once, and a server that may be started anew."""

    late = False

    @initialize(
        remember=st.sampled_from([0, 0.2, 1, 3, 30, 300]),
        remember_ids=st.sampled_from([1, 2, 3, 5, 1024]),
        reserve=st.sampled_from([0, 0.3, 5]),
        keep=st.sampled_from([0, 1_000_000]),
        max_in_flight=st.sampled_from([1, 4, 64]),
        echo=st.booleans(),
    )
    def begin(
        self, remember: float, remember_ids: int, reserve: float, keep: float, max_in_flight: int, echo: bool
    ) -> None:
        self.limits = Limits(
            remember=remember, remember_ids=remember_ids, reserve=reserve, rate=0, keep=keep, flood=100_000
        )
        self.margin = remember - resend_within(remember)
        self.clock = VirtualClock()
        self.kept: list[Message] = []  # by this server and those before it
        self.lives = 0
        self.sent: list[Request] = []
        self.texts = count()
        self.protocol = ClientProtocol(
            "Mina",
            "dev",
            prefix=f"p{next(NUMBERS)}",
            pause=lambda tries: 0.1,
            max_in_flight=max_in_flight,
            echo=echo,
        )
        self.on_its_way: list[tuple[float, bytes]] = []  # written by the client, not yet read by the server
        self.start()
        self.connect()
        self.hear(self.peer.transport.take())

    def start(self) -> None:
        self.lives += 1
        broker: dict[str, Any] = {"broker": LateBroker} if self.late else {}
        self.kit = ChatKit(self.limits, clock=self.clock, keys=f"{'k' * 20}{self.lives}-", **broker)
        rooms: Any = self.kit.broker._rooms  # type: ignore[attr-defined]
        deliver = rooms.deliver

        def note(room: str, entries: list[AnyEntry], ours: bool = True) -> None:
            deliver(room, entries, ours)
            self.kept += [event for entry in entries for event in entry.events() if isinstance(event, Message)]

        rooms.deliver = note
        self.zoe = self.kit.member("Zoe", "dev")

    def connect(self) -> None:
        self.protocol.connection_lost()
        self.on_its_way.clear()
        self.peer: Peer = self.kit.connect()
        self.peer.send(self.protocol.handshake())
        self.open = True
        self.kit.settle()

    # What can happen

    @rule(texts=st.sampled_from([1, 2, 7, 30]))
    def send(self, texts: int) -> None:
        self.sent += [self.protocol.ask("message", text=f"m{next(self.texts)}") for _ in range(texts)]
        self.write()

    @rule(whispers=st.sampled_from([1, 3, 10]))
    def whisper(self, whispers: int) -> None:
        for _ in range(whispers):
            self.protocol.ask("whisper", to="Zoe", text=f"w{next(self.texts)}")
        self.write()

    @rule(room=st.sampled_from(["dev", "ops"]))
    def join(self, room: str) -> None:
        self.protocol.ask("join", room=room)
        self.write()

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        waiting = [request for request in self.sent if not request.done]
        if waiting:
            request = data.draw(st.sampled_from(waiting))
            self.protocol.requests.withdraw(request)
            self.sent.remove(request)

    @rule(most=st.sampled_from([1, 60, 400, 1 << 30]))
    def arrive_at_the_server(self, most: int) -> None:
        self.deliver(most)

    @rule(most=st.sampled_from([1, 60, 400, 1 << 30]))
    def arrive_at_the_client(self, most: int) -> None:
        self.hear(self.peer.transport.take(most))

    @rule(lost=st.sampled_from([0, 60, 1 << 30]), how=st.sampled_from(["reset", "end", "unnoticed"]))
    def break_off(self, lost: int, how: str) -> None:
        """The connection breaks; of what is on its way to the server, only a part arrives."""
        if not self.open:
            return
        self.deliver(lost)
        if how == "reset":
            self.peer.transport.reset()
        elif how == "end":
            self.peer.end()
        self.open = False
        self.protocol.connection_lost()
        self.on_its_way.clear()
        self.kit.settle()

    @rule()
    def come_back(self) -> None:
        if not self.open:
            self.connect()

    @rule(part=st.sampled_from([0.1, 0.4, 0.9, 1.1, 3]))
    def wait(self, part: float) -> None:
        """A part of the time for which ids are remembered passes, or that for which a session is kept."""
        seconds = max(0.1, part * max(self.limits.remember, self.limits.reserve))
        if self.on_its_way and self.clock.monotonic() + seconds - self.on_its_way[0][0] >= self.margin:
            self.deliver(1 << 30)
        self.kit.wait(seconds)
        self.write()

    @rule(
        lost=st.sampled_from([0, 0, 60]),
        how=st.sampled_from(["reset", "end", "unnoticed"]),
        before=st.sampled_from([0, 0.2, 0.6]),
        after=st.sampled_from([0, 0.3, 0.6, 1.1]),
        trimmed=st.booleans(),
    )
    def lose_the_answers(self, lost: int, how: str, before: float, after: float, trimmed: bool) -> None:
        """Most of what was written arrives, and the connection breaks before the answers do."""
        self.write()
        self.deliver(max(0, sum(len(data) for _, data in self.on_its_way) - lost))
        self.wait(before)
        self.break_off(1 << 30, how)
        self.wait(after)
        if trimmed:
            self.rooms_forget_what_was_said()
        self.come_back()
        self.hear(self.peer.transport.take())

    @rule()
    def the_server_is_started_anew(self) -> None:
        self.open = False
        self.protocol.connection_lost()
        self.on_its_way.clear()
        self.start()

    @rule()
    def rooms_forget_what_was_said(self) -> None:
        """Who comes back then is not shown what it has said itself."""
        for room in self.kit.hub.rooms.values():
            for client in room.members:
                if client.name == "Zoe":
                    client.post(f"n{next(self.texts)}")
            room.log.shrink(0)

    @rule()
    def sessions_are_forgotten(self) -> None:
        if not self.open:
            self.kit.settle()
            client = self.peer.connection.client
            if client is None or client.away:
                self.kit.hub.sessions.close_all("draining")

    @precondition(lambda self: self.late)
    @rule(most=st.integers(1, 40), failing=st.sampled_from([False, False, False, True]))
    def the_broker_answers(self, most: int, failing: bool) -> None:
        assert isinstance(self.kit.broker, LateBroker)
        self.kit.broker.failing = Refused(RefusalCode.UNAVAILABLE, "the disk is full") if failing else None
        self.kit.broker.release(most)
        self.kit.settle()

    # How it does

    def write(self) -> None:
        now = self.clock.monotonic()
        if self.open and (data := self.protocol.data_to_send(now)):
            self.on_its_way.append((now, data))

    def deliver(self, most: int) -> None:
        while self.on_its_way and most:
            when, data = self.on_its_way.pop(0)
            if data[most:]:
                self.on_its_way.insert(0, (when, data[most:]))
            self.peer.send(data[:most])
            most -= len(data[:most])
        self.kit.settle()

    def hear(self, data: bytes) -> None:
        if not self.open:
            return
        try:
            for _ in self.protocol.receive_data(data):
                pass
        except Refused:  # the name is not free yet
            self.open = False
        except ProtocolError as error:
            raise AssertionError from error
        if self.protocol.bye is not None:
            self.open = False
        self.write()

    # What must hold

    @invariant()
    def nothing_is_kept_twice(self) -> None:
        if not hasattr(self, "kit"):
            return
        times = Counter(message.text for message in self.kept)
        assert [text for text, number in times.items() if number > 1] == []
        for request in self.sent:
            if request.done and request.error is None:
                assert times[request.fields["text"]] == 1
                assert request.value in self.kept
            elif isinstance(request.error, Disconnected):
                assert "it is unknown whether this message was kept" in request.error.detail
                assert not request.error.sure
            else:
                assert request.error is None or isinstance(request.error, Refused)

    def teardown(self) -> None:
        if not hasattr(self, "kit") or sys.exc_info()[0]:
            return
        for _ in range(200 + 2 * len(self.protocol.requests._waiting)):
            if not self.protocol.requests.awaited:
                break
            if not self.open:
                for peer in self.kit.peers:
                    if peer is not self.zoe and not peer.transport.closed:
                        peer.end()  # the server notices at last
                self.kit.settle()
                self.connect()
            if self.late:
                self.the_broker_answers(1_000_000, failing=False)
            self.hear(self.peer.transport.take())
            self.write()
            self.deliver(1 << 30)
            self.kit.wait(0.2)
        assert not self.protocol.requests.awaited, "something is never answered"
        self.nothing_is_kept_twice()


class ScriptOverTheLateBroker(Script):
    late = True


TestScript = Script.TestCase
TestScriptOverTheLateBroker = ScriptOverTheLateBroker.TestCase
TestScript.settings = TestScriptOverTheLateBroker.settings = examples(100, stateful_step_count=40)
