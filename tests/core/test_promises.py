"""The promises of docs/reference/protocol.md, whatever members do, over the in-process and the late broker.

A hypothesis state machine drives one room. An observer that always reads tells the one order; every other member's
stream is compared with it.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from profiles import examples

from chatapi import Limits
from chatapi.testing import ChatKit, LateBroker, Peer

LIMITS = Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, keep=0, flood=1000)
MESSAGE = re.compile(r"(\w+):(m\d+)x*")


@dataclass
class Member:
    """What the model knows of a member."""

    peer: Peer
    name: str
    joined_at: int  # how much the observer had seen by then
    replayed: list[str]  # what it must see first
    echo: bool
    said: list[str] = field(default_factory=list)
    raw: str = ""
    stalled: bool = False
    broken: bool = False
    leaving: bool = False

    def seen(self) -> list[str]:
        """The messages in every whole line that it got."""
        lines = self.raw[: self.raw.rfind("\n") + 1].splitlines()
        return [found[2] for line in lines if (found := MESSAGE.fullmatch(line))]


class Promises(RuleBasedStateMachine):
    late = False

    @initialize()
    def begin(self) -> None:
        self.kit = ChatKit(LIMITS, broker=LateBroker) if self.late else ChatKit(LIMITS)
        self.observer = self.kit.member("observer")
        self.order: list[str] = []  # every message, as the observer saw it
        self.members: dict[str, Member] = {}
        self.gone: list[Member] = []
        self.numbers = 0

    # What can happen

    @rule(
        name=st.sampled_from("abcdef"),
        capacity=st.sampled_from([1 << 30, 3000, 200]),
        echo=st.booleans(),
        notices=st.booleans(),
        history=st.sampled_from([0, 3, 100]),
    )
    def join(self, name: str, capacity: int, echo: bool, notices: bool, history: int) -> None:
        room = self.kit.hub.room("dev")
        assert room is not None
        taken = room.member(name) is not None
        assert taken == (name in self.members)
        fields = {"name": name, "room": "dev", "echo": echo, "notices": notices, "history": history}
        peer = self.kit.connect(capacity=capacity)
        peer.send(json.dumps(fields))
        peer.transport.poll(self.kit.clock.monotonic())  # it comes in now: what others say on settling is live for it
        if taken:
            assert '"name_taken"' in peer.received()
            return
        held = [message.text.rstrip("x") for message in room.history(history)] if history else []
        self.members[name] = Member(peer, name, room.seq, held, echo)
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), count=st.integers(1, 20), size=st.sampled_from([0, 50, 2000]))
    def say(self, data: st.DataObject, count: int, size: int) -> None:
        member = self.pick(data)
        if member.leaving:
            return  # nothing said after a goodbye is promised to arrive
        texts = [f"m{self.numbers + i}" for i in range(count)]
        self.numbers += count
        member.said += texts
        member.peer.send("".join(f"{text}{'x' * size}\n" for text in texts))
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def stall(self, data: st.DataObject) -> None:
        self.pick(data).stalled = True

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def read_again(self, data: st.DataObject) -> None:
        self.pick(data).stalled = False

    @precondition(lambda self: self.members)
    @rule(data=st.data(), most=st.integers(1, 5000))
    def read_a_little(self, data: st.DataObject, most: int) -> None:
        member = self.pick(data)
        member.raw += member.peer.transport.take(most).decode()
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), how=st.sampled_from(["/bye\n", "end", "reset"]))
    def leave(self, data: st.DataObject, how: str) -> None:
        member = self.pick(data)
        member.leaving = True
        if how == "reset":
            member.peer.transport.reset()  # noticed at once, or when a pause in reading ends
            member.broken = True
        elif how == "end":
            member.peer.end()
        else:
            member.peer.send(how)
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(data=st.data(), to=st.sampled_from("abcdefg"))
    def rename(self, data: st.DataObject, to: str) -> None:
        self.pick(data).peer.send(f"/nick {to}\n")
        self.kit.settle()

    @rule(seconds=st.sampled_from([0.2, 1, 6]))
    def wait(self, seconds: float) -> None:
        self.kit.wait(seconds)

    @precondition(lambda self: self.late)
    @rule(most=st.integers(1, 30))
    def release(self, most: int) -> None:
        assert isinstance(self.kit.broker, LateBroker)
        self.kit.broker.release(most)
        self.kit.settle()

    # What must hold

    def pick(self, data: st.DataObject) -> Member:
        return self.members[data.draw(st.sampled_from(sorted(self.members)))]

    def read(self, member: Member) -> bool:
        news = "" if member.stalled else member.peer.received()
        member.raw += news
        return bool(news)

    def observe(self) -> bool:
        lines = self.observer.lines()
        for line in lines:
            found = MESSAGE.fullmatch(line)
            assert found is not None, line
            self.order.append(found[2])
        return bool(lines)

    @invariant()
    def everybody_sees_one_order(self) -> None:
        if not hasattr(self, "kit"):
            return
        self.kit.settle()
        while any([self.observe(), *map(self.read, self.members.values())]):
            pass  # who reads may let others say more
        assert len(self.order) == len(set(self.order)), "a message came twice"
        room = self.kit.hub.room("dev")
        assert room is not None
        present, self.members = self.members, {}
        for member in present.values():
            client = member.peer.connection.client
            if client is None or client.room is None:
                self.gone.append(member)
            else:
                member.name = client.name
                self.members[client.name] = member
        assert {client.name for client in room.members} == {"observer", *self.members}
        for member in [*self.members.values(), *self.gone]:
            self.check(member)

    def check(self, member: Member) -> None:
        due = [text for text in self.order[member.joined_at :] if member.echo or text not in set(member.said)]
        expected = member.replayed + due
        seen = member.seen()
        assert seen == expected[: len(seen)], "a gap, or another order"
        client = member.peer.connection.client
        if client is not None and client.room is not None and not member.stalled and not member.broken:
            assert len(seen) == len(expected), "something is missing"
        said = [text for text in self.order if text in set(member.said)]
        assert said == [text for text in member.said if text in set(said)], "one's own order"

    def teardown(self) -> None:
        if not hasattr(self, "kit") or sys.exc_info()[0]:
            return
        for member in self.members.values():
            member.stalled = False
        if isinstance(self.kit.broker, LateBroker):
            self.kit.broker.release()
        self.everybody_sees_one_order()
        self.kit.wait(12)
        if isinstance(self.kit.broker, LateBroker):
            self.kit.broker.release()
        self.everybody_sees_one_order()
        assert not any(member.broken for member in self.members.values()), "a broken connection was not noticed"
        arrived = set(self.order)
        for member in self.members.values():
            assert arrived.issuperset(member.said), "what was said by who is still here never came"
        for member in self.gone:
            if "* goodbye" in member.raw:
                assert arrived.issuperset(member.said), "what was said before leaving never came"
        for member in self.members.values():
            member.peer.end()
        self.observer.end()
        self.kit.settle()
        if isinstance(self.kit.broker, LateBroker):
            self.kit.broker.release()
        self.kit.wait(12)
        assert not self.kit.hub.connections
        assert not self.kit.hub.rooms
        assert not self.kit.hub.timers


class PromisesOverTheLateBroker(Promises):
    late = True


TestPromises = Promises.TestCase
TestPromisesOverTheLateBroker = PromisesOverTheLateBroker.TestCase
TestPromises.settings = TestPromisesOverTheLateBroker.settings = examples(60, stateful_step_count=40)
