"""The client's side of the protocol without I/O: what a broken connection changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from client_protocols import again, client_protocol, hear, line, live, message, outcome, said, texts, welcome
from hypothesis import given
from hypothesis import strategies as st

from chatapi.client.events import Gap, News, ProtocolError, Recovered, Welcome
from chatapi.client.requests import RESEND_WITHIN, PendingRequests, Request
from chatapi.errors import Disconnected
from chatapi.events import Message

# Coming back


def test_it_resumes_with_its_place_and_its_key() -> None:
    it = live(token="t")
    hear(it, message(1), message(2))
    it.connection_lost()
    shake = json.loads(it.handshake())
    assert shake["resume"] == {"epoch": "e1", "seq": 2, "ts": 20, "session": "key"}
    assert (shake["name"], shake["token"]) == ("Mina", "t")
    news = hear(it, welcome(seq=4, ts=40, recovered=True, session="new"), message(3), message(4))
    assert isinstance(news[0], Recovered)
    assert news[0].welcome.seq == 4
    assert it.seq == 4
    it.connection_lost()
    assert json.loads(it.handshake())["resume"]["session"] == "new"


def test_the_beginning_of_an_empty_log_is_a_place_too() -> None:
    it = live()
    it.connection_lost()
    assert json.loads(it.handshake())["resume"] == {"epoch": "e1", "seq": 0, "ts": 0, "session": "key"}


@pytest.mark.parametrize("reason", ["unknown_epoch", "trimmed", "diverged"])
def test_a_gap_goes_on_from_where_the_room_is(reason: str) -> None:
    it = live()
    hear(it, message(1))
    news = again(it, epoch="e2", seq=7, ts=70, recovered=False, reason=reason)
    assert isinstance(news[0], Gap)
    assert (news[0].reason, news[0].seq, news[0].welcome.seq) == (reason, 1, 7)
    assert hear(it, message(8)) == [Message(8, 80, "Zoe", "hi")]


@pytest.mark.parametrize("fields", [{"epoch": "e2", "seq": 5}, {"epoch": "e1", "seq": 1}])
def test_a_recovery_that_cannot_be_one_is_a_protocol_error(fields: dict[str, Any]) -> None:
    it = live()
    hear(it, message(1), message(2))
    with pytest.raises(ProtocolError):
        again(it, recovered=True, ts=1, **fields)


def test_a_server_that_knows_no_resume_leaves_a_gap() -> None:
    news = again(live(), seq=3, ts=30)
    assert isinstance(news[0], Gap)
    assert news[0].reason == "unknown_epoch"


def test_half_a_frame_is_forgotten_with_its_connection() -> None:
    it = live()
    hear(it, message(1), message(2)[:-5])
    assert len(again(it, seq=2, ts=20, recovered=True)) == 1
    assert hear(it, message(2)) == [Message(2, 20, "Zoe", "hi")]


def test_what_was_not_answered_goes_out_again_first_in_order_and_under_its_old_id() -> None:
    it = live(max_in_flight=3)
    requests = [it.ask("message", text=text) for text in "abcd"]
    said(it)
    hear(it, line("ack", id="p-2", seq=1, ts=10))
    again(it, seq=1, ts=10, recovered=True)
    requests.append(it.ask("message", text="e"))
    assert [(f["id"], f["text"]) for f in said(it)] == [("p-1", "a"), ("p-3", "c"), ("p-4", "d")]
    hear(it, *[line("ack", id=f"p-{n}", seq=n, ts=n, duplicate=True) for n in (1, 3, 4)])
    assert texts(it) == ["e"]


def test_what_is_acknowledged_on_coming_back_does_not_go_out_again() -> None:
    it = live()
    requests = [it.ask("message", text=text) for text in "ab"]
    said(it)
    it.ask("message", text="c")
    again(it, seq=1, ts=10, recovered=True)
    hear(it, line("ack", id="p-1", seq=1, ts=10), line("ack", id="p-3", seq=2, ts=20))
    assert [request.done for request in requests] == [True, False]
    assert texts(it) == ["b", "c"]


def test_what_the_server_may_have_forgotten_is_not_sent_twice() -> None:
    it = live()
    old = it.ask("message", text="old")
    texts(it, 0)
    waiting = it.ask("message", text="waiting")
    again(it, recovered=True)
    assert texts(it, RESEND_WITHIN + 1) == ["waiting"]
    assert isinstance(outcome(old), Disconnected)
    assert not waiting.done


def test_a_rename_or_join_that_took_place_unheard_is_not_done_again() -> None:
    it = live()
    rename, join, message = it.ask("rename", to="Zoe"), it.ask("join", room="ops"), it.ask("message", text="x")
    said(it)
    again(it, name="Zoe", room="ops", epoch="o1", recovered=False, reason="unknown_epoch")
    assert rename.done
    assert join.done
    assert not message.done
    assert (it.name, it.room) == ("Zoe", "ops")
    assert texts(it) == ["x"]


def test_a_rename_or_join_that_did_not_take_place_is_done_again() -> None:
    it = live()
    it.ask("rename", to="Zoe")
    it.ask("join", room="ops")
    said(it)
    again(it, recovered=True)
    assert [frame["type"] for frame in said(it)] == ["rename", "join"]


def test_of_two_joins_that_were_interrupted_the_last_one_decides() -> None:
    requests = PendingRequests("key", 10, lambda tries: 0)
    there, back = requests.add("join", {"room": "B"}), requests.add("join", {"room": "A"})
    requests.next_frames(0)
    requests.connection_lost()
    requests.settle_moves("Mina", "A", None)  # it came back to where it was
    assert requests.next_frames(1) == [there.frame]
    requests.settle(there.key)
    assert requests.next_frames(1) == [back.frame]


# Any cut of the stream, any schedule of reconnections


class Model:
    """A server in ten lines: a log that may be trimmed or begun anew, and one session's ids."""

    def __init__(self) -> None:
        self.log: list[tuple[int, int, str, str | None]] = []
        self.epoch, self.seq, self.ids = 0, 0, dict[str, int]()

    def say(self, text: str, id_: str | None = None) -> None:
        self.seq += 1
        self.log.append((self.seq, self.seq * 10, text, id_))
        if id_:
            self.ids[id_] = self.seq

    def tell(self, seq: int, ts: int, text: str, id_: str | None) -> bytes:
        return line("ack", id=id_, seq=seq, ts=ts) if id_ else line("message", seq=seq, ts=ts, name="Zoe", text=text)

    def greet(self, shake: dict[str, Any]) -> bytes:
        here = {"epoch": str(self.epoch), "seq": self.seq, "ts": self.seq * 10}
        if not (resume := shake.get("resume")):
            return welcome(**here)
        first = self.log[0][0] if self.log else self.seq + 1
        known = resume["epoch"] == str(self.epoch) and first - 1 <= resume["seq"] <= self.seq
        later = [self.tell(*entry) for entry in self.log if entry[0] > resume["seq"]] if known else []
        return welcome(**here, recovered=known, reason="trimmed") + b"".join(later)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("others"), st.integers(1, 5)),
        st.tuples(st.just("send"), st.integers(1, 3)),
        st.tuples(st.just("serve"), st.just(0)),
        st.tuples(st.just("arrive"), st.integers(1, 400)),
        st.tuples(st.just("break"), st.just(0)),
        st.tuples(st.just("trim"), st.integers(0, 3)),
        st.tuples(st.just("anew"), st.just(0)),
    ),
    max_size=60,
)


@given(STEPS)
def test_every_message_comes_once_and_in_order_or_there_is_a_gap(steps: list[tuple[str, int]]) -> None:
    model, it = Model(), client_protocol(max_in_flight=4)
    news: list[News] = []
    sent: list[Request] = []
    wire = model.greet(json.loads(it.handshake()))
    kept: list[tuple[int, str, int]] = []  # what has ever been kept: epoch, text, seq

    def publish(text: str, id_: str | None = None) -> None:
        model.say(text, id_)
        kept.append((model.epoch, text, model.seq))

    def serve() -> None:
        nonlocal wire
        for frame in said(it):
            if frame["id"] in model.ids:
                seq = model.ids[frame["id"]]
                wire += line("ack", id=frame["id"], seq=seq, ts=seq * 10, duplicate=True)
            else:
                publish(frame["text"], frame["id"])
                wire += model.tell(*model.log[-1])

    def reconnect() -> None:
        nonlocal wire
        it.connection_lost()
        wire = model.greet(json.loads(it.handshake()))

    for number, (step, n) in enumerate([*steps, ("break", 0), ("arrive", 10**6), ("serve", 0), ("arrive", 10**6)]):
        if step == "others":
            for i in range(n):
                publish(f"other {number}.{i}")
                wire += model.tell(*model.log[-1])
        elif step == "send":
            sent += [it.ask("message", text=f"own {number}.{i}") for i in range(n)]
        elif step == "serve":
            serve()
        elif step == "arrive":
            news += it.receive_data(wire[:n])
            wire = wire[n:]
        elif step == "break":
            reconnect()
        elif step == "trim":
            model.log = model.log[len(model.log) - min(n, len(model.log)) :]
        else:
            model.epoch, model.seq, model.log = model.epoch + 1, 0, []
            reconnect()  # another log is another server
    while it.requests.awaited:  # only so many are in flight at once
        serve()
        news += it.receive_data(wire)
        wire = b""

    epoch, seq = 0, 0
    for event in news:
        if isinstance(event, Welcome | Gap):
            here = event if isinstance(event, Welcome) else event.welcome
            epoch, seq = int(here.epoch), here.seq
        elif isinstance(event, Message):
            missed = [text for e, text, s in kept if e == epoch and seq < s < event.seq]
            assert all(text.startswith("own") for text in missed)
            assert (epoch, event.text, event.seq) in kept
            seq = event.seq
    assert it.seq == model.seq
    for request in sent:  # each was kept once, and in order
        assert isinstance(outcome(request), Message)
        assert [text for _, text, _ in kept].count(request.fields["text"]) == 1
    own = [text for _, text, _ in kept if text.startswith("own")]
    assert own == [request.fields["text"] for request in sent]
