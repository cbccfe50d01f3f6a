"""The promises of sections 5 and 6, held by JSON members whose connections break at any point and who come back.

A hypothesis state machine drives one room over the in-process and the late broker. An observer that always reads
tells the one order; every member behaves as a good client does: it counts on from the last event that it read,
and says again, under the same id, what was not acknowledged.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from profiles import examples
from speakers import Speaker, chat, nothing_is_left, release

from chatapi import Limits

LIMITS = Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, reserve=5, keep=0, flood=100_000)


@dataclass
class Member:
    """One person: what it knows, over all of its connections."""

    name: str
    speaker: Speaker
    echo: bool
    connected: bool = True
    stalled: bool = False
    raw: bytes = b""  # what came on this connection and was read, up to the frame that is not whole yet
    epoch: str = ""
    seq: int = 0  # the last event it has seen, or where it was told to go on from
    ts: int = 0
    session: str = ""
    started: bool = False  # whether this connection's welcome was read
    unacknowledged: dict[str, str] = field(default_factory=dict)  # text by id, in the order said
    acknowledged: dict[str, int] = field(default_factory=dict)  # seq by id
    byes: list[str] = field(default_factory=list)
    gaps: int = 0
    strange: bool = False  # whether it came back without its key, so that what it said is not its own any more
    halved: bool = False  # whether the last frame that it sent is not whole


class Comebacks(RuleBasedStateMachine):
    late = False

    @initialize()
    def begin(self) -> None:
        self.kit = chat(self.late, LIMITS)
        self.observer = Speaker(self.kit, "observer", capacity=1 << 30)
        self.text = self.kit.member("text")  # says much at once
        self.order: list[tuple[str, str, int]] = []  # name, text and ts of each message, as the observer saw it
        self.members: dict[str, Member] = {}
        self.numbers = 0
        self.others = 0

    # What can happen

    @rule(name=st.sampled_from("abcd"), echo=st.booleans(), capacity=st.sampled_from([1 << 30, 3000, 400]))
    def join(self, name: str, echo: bool, capacity: int) -> None:
        if name not in self.members:
            speaker = Speaker(self.kit, name, echo=echo, capacity=capacity)
            self.members[name] = Member(name, speaker, echo)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), count=st.sampled_from([1, 3, 20, 70]), size=st.sampled_from([0, 50, 1000]))
    def say(self, data: st.DataObject, count: int, size: int) -> None:
        member = self.pick(data)
        if not member.connected:
            return
        for _ in range(count):
            self.numbers += 1
            member.unacknowledged[f"i{self.numbers}"] = f"m{self.numbers}" + "x" * size
            member.speaker.send("message", text=f"m{self.numbers}" + "x" * size, id=f"i{self.numbers}")
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(lines=st.sampled_from([5, 40, 100]))
    def hear_others(self, lines: int) -> None:
        self.text.send("".join(f"n{self.others}.{line}\n" for line in range(lines)))
        self.others += 1
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def say_again_what_may_have_arrived(self, data: st.DataObject) -> None:
        member = self.pick(data)
        if member.connected:
            self.repeat(member)

    @precondition(lambda self: self.members)
    @rule(data=st.data(), stalled=st.booleans())
    def stall(self, data: st.DataObject, stalled: bool) -> None:
        self.pick(data).stalled = stalled

    @precondition(lambda self: self.members)
    @rule(data=st.data(), most=st.integers(1, 5000))
    def read_a_little(self, data: st.DataObject, most: int) -> None:
        member = self.pick(data)
        if member.connected:
            self.take(member, member.speaker.peer.transport.take(most))
            self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(
        data=st.data(),
        how=st.sampled_from(["reset", "end", "unnoticed"]),
        read=st.sampled_from([0, 1, 40, 300, 3000, 1 << 30]),
        half=st.booleans(),
    )
    def cut(self, data: st.DataObject, how: str, read: int, half: bool) -> None:
        member = self.pick(data)
        if not member.connected:
            return
        if half:
            member.speaker.peer.send('{"type":"mess')
            member.halved = True
        if how == "end":
            member.speaker.peer.end()
            self.kit.settle()
        self.take(member, member.speaker.peer.transport.take(read))
        if how != "unnoticed":
            member.speaker.peer.transport.reset()
        member.connected = False
        self.kit.settle()

    @precondition(lambda self: self.members)
    @rule(
        data=st.data(), capacity=st.sampled_from([1 << 30, 3000, 400]), key=st.sampled_from([True, True, True, False])
    )
    def come_back(self, data: st.DataObject, capacity: int, key: bool) -> None:
        self.resume(self.pick(data), capacity, key)

    @precondition(lambda self: self.members)
    @rule(data=st.data())
    def be_thrown_out(self, data: st.DataObject) -> None:
        client = self.pick(data).speaker.peer.connection.client
        if client is not None:
            client.disconnect("idle_timeout")
        self.kit.settle()

    @rule(seconds=st.sampled_from([0.2, 1, 4, 6]))
    def wait(self, seconds: float) -> None:
        self.kit.wait(seconds)

    @precondition(lambda self: self.late)
    @rule(most=st.integers(1, 40))
    def release(self, most: int) -> None:
        release(self.kit, most)

    # What a member does

    def pick(self, data: st.DataObject) -> Member:
        return self.members[data.draw(st.sampled_from(sorted(self.members)))]

    def repeat(self, member: Member) -> None:
        for id_, text in member.unacknowledged.items():
            member.speaker.send("message", text=text, id=id_)
        self.kit.settle()

    def resume(self, member: Member, capacity: int = 1 << 30, key: bool = True) -> None:
        if member.connected:
            return
        resume: dict[str, Any] = {"epoch": member.epoch, "seq": member.seq, "ts": member.ts}
        if key or member.unacknowledged:  # without its key, what it says again would be said twice
            resume["session"] = member.session
        speaker = Speaker(self.kit, member.name, echo=member.echo, capacity=capacity, resume=resume)
        first = bytes(speaker.peer.transport.sent)
        if first.startswith(b'{"type":"error"'):
            assert json.loads(first[: first.index(b"\n")])["code"] == "name_taken", first
            assert "session" not in resume or not member.session, "the key was not honoured"
            return
        member.speaker, member.connected, member.stalled, member.raw = speaker, True, False, b""
        member.started = member.halved = False
        self.repeat(member)

    def take(self, member: Member, data: bytes) -> None:
        *lines, member.raw = (member.raw + data).split(b"\n")
        for line in lines:
            self.hear(member, json.loads(line))

    def hear(self, member: Member, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        assert member.started == (kind != "welcome"), "one welcome, and it comes first"
        assert not member.byes or kind == "welcome" or not member.connected, "something behind a bye"
        if kind == "welcome":
            member.started = True
            member.byes.clear()
            if frame["recovered"] is False:
                assert frame["reason"] in ("unknown_epoch", "trimmed", "diverged")
                assert member.epoch != frame["epoch"] or frame["reason"] == "trimmed"
                member.gaps += 1
            if not frame["recovered"]:
                member.seq, member.ts = frame["seq"], frame["ts"]
            member.strange = member.strange or (bool(member.session) and frame["session"] != member.session)
            member.epoch, member.session = frame["epoch"], frame["session"]
        elif kind == "ack" and frame.get("duplicate"):
            self.acknowledge(member, frame["id"], frame["seq"])
        elif kind in ("ack", "message"):
            assert frame["seq"] == member.seq + 1, "a hole, or twice"
            member.seq, member.ts = frame["seq"], frame["ts"]
            self.settle_and_observe()
            name, text, ts = self.order[frame["seq"] - 1]
            assert ts == frame["ts"]
            if kind == "message":
                assert (frame["name"], frame["text"]) == (name, text)
                assert name != member.name or member.echo or member.strange, "one's own comes as an ack"
            else:
                assert name == member.name
            if frame.get("id") is not None:
                self.acknowledge(member, frame["id"], frame["seq"])
        elif kind == "bye":
            member.byes.append(frame["code"])
        else:
            assert kind in ("joined", "left") or (member.halved and frame["code"] == "bad_frame"), frame

    def acknowledge(self, member: Member, id_: str, seq: int) -> None:
        self.settle_and_observe()
        assert member.acknowledged.setdefault(id_, seq) == seq, "acknowledged at two places"
        member.unacknowledged.pop(id_, None)
        name, text, _ = self.order[seq - 1]
        assert (name, text.rstrip("x")) == (member.name, "m" + id_[1:]), "acknowledged at somebody else's place"

    # What must hold

    def settle_and_observe(self) -> None:
        for frame in self.observer.frames():
            if frame["type"] == "message":
                assert frame["seq"] == len(self.order) + 1
                self.order.append((frame["name"], frame["text"], frame["ts"]))

    @invariant()
    def everybody_sees_one_order(self) -> None:
        if not hasattr(self, "kit"):
            return
        self.settle_and_observe()
        news = True
        while news:  # who reads may let others say more
            news = False
            for member in self.members.values():
                if member.connected and not member.stalled:
                    data = member.speaker.peer.received().encode()
                    news = news or bool(data)
                    self.take(member, data)
            self.text.received()
            self.settle_and_observe()
        texts = [text for _, text, _ in self.order]
        assert len(texts) == len(set(texts)), "a message is there twice"
        for member in self.members.values():
            if member.connected and member.byes:
                assert set(member.byes) <= {"slow_consumer", "idle_timeout"}, member.byes
                member.connected = False
                member.speaker.peer.end()
            elif member.speaker.peer.transport.closed and not member.speaker.peer.transport.sent:
                member.connected = False  # it did not read its bye in time
            if member.connected and not member.stalled:
                assert member.seq == len(self.order), "something is missing"

    def teardown(self) -> None:
        if not hasattr(self, "kit") or sys.exc_info()[0]:
            return
        for round_ in range(50):  # one is said once what is before it, and was said again, has its place
            if round_ >= 3 and not any(member.unacknowledged for member in self.members.values()):
                break
            for member in self.members.values():
                member.stalled = False
                member.speaker.peer.transport.capacity = 1 << 30
            self.everybody_sees_one_order()
            for member in self.members.values():
                self.resume(member)
            release(self.kit)
            self.everybody_sees_one_order()
        for member in self.members.values():
            assert member.connected
            assert not member.unacknowledged, "said again and again, and never acknowledged"
            for id_, seq in member.acknowledged.items():
                assert self.order[seq - 1][1].rstrip("x") == "m" + id_[1:]
        said = [int(text.rstrip("x")[1:]) for name, text, _ in self.order if name != "text"]
        assert sorted(said) == list(range(1, self.numbers + 1)), "everything that was said is there once"
        assert nothing_is_left(self.kit)


class ComebacksOverTheLateBroker(Comebacks):
    late = True


TestComebacks = Comebacks.TestCase
TestComebacksOverTheLateBroker = ComebacksOverTheLateBroker.TestCase
TestComebacks.settings = TestComebacksOverTheLateBroker.settings = examples(100, stateful_step_count=50)
