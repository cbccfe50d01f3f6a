"""Each message is kept once and in order, over any schedule of refusals, late replies and broken connections."""

from __future__ import annotations

import json

import pytest
from client_protocols import (
    AVAILABLE,
    ack,
    client_protocol,
    hear,
    outcome,
    refusal,
    said,
    welcome,
)
from hypothesis import given
from hypothesis import strategies as st

from chatapi.client.requests import Request
from chatapi.events import Message

pytestmark = pytest.mark.anyio


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
