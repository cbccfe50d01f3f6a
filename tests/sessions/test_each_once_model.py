"""Each message once: the client library's protocol against the real server, on one virtual clock.

A hypothesis state machine delays and loses bytes in both directions, lets time pass, starts the server anew, and has it
forget sessions. The bytes between them arrive within the margin that the client allows for, or not at all.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import count
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from profiles import examples

from chatapi import Disconnected, Limits, Message, RefusalCode, Refused
from chatapi.client.events import ProtocolError
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import Request, resend_within
from chatapi.core.entries import AnyEntry
from chatapi.testing import ChatKit, LateBroker, Peer, VirtualClock

pytestmark = pytest.mark.anyio


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
