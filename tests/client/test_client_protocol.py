"""The client's side of the protocol without I/O: what is said and what is heard."""

from __future__ import annotations

import json
from typing import Any

import pytest
from client_protocols import again, client_protocol, hear, line, live, message, outcome, said, texts, welcome
from hypothesis import given
from hypothesis import strategies as st

from chatapi.client.events import Gap, ProtocolError, Recovered, SendRefused, Welcome
from chatapi.client.protocol import MAX_FRAME
from chatapi.errors import ChatError, Disconnected, NotDelivered, Refused, TextTooLong
from chatapi.events import Joined, Left, Message, Renamed, Whisper

# The handshake


def test_the_first_handshake_says_what_was_asked_for_and_nothing_else() -> None:
    first = json.loads(client_protocol().handshake())
    assert first == {"name": "mina", "room": "dev", "protocol": "json", "echo": False}
    full = json.loads(client_protocol(echo=True, history=7, token="t").handshake())
    assert full == {**first, "echo": True, "history": 7, "token": "t"}
    assert client_protocol().handshake().endswith(b"}\n")


def test_the_welcome_has_the_name_and_the_room() -> None:
    it = client_protocol()
    it.handshake()
    news = hear(it, welcome(seq=5, ts=50, members=["Mina", "Zoe"], count=2))
    assert news == [Welcome("Mina", "dev", "e1", 5, 50, ("Mina", "Zoe"), 2, {"frame_bytes": 1000})]
    assert hash(news[0])
    assert (it.name, it.room, it.seq) == ("Mina", "dev", 5)


@pytest.mark.parametrize("code", ["name_taken", "bad_name", "unauthorized", "of_the_future"])
def test_a_refused_handshake_is_raised_with_its_code(code: str) -> None:
    it = client_protocol()
    it.handshake()
    with pytest.raises(Refused) as refused:
        hear(it, line("error", code=code, detail="no", after=3))
    assert (refused.value.code, refused.value.detail, refused.value.after) == (code, "no", 3)
    with pytest.raises(Refused) as refused:
        hear(it, line("error", code=code, detail="no"))
    assert refused.value.after is None


def test_a_goodbye_instead_of_a_welcome_is_noted() -> None:
    it = client_protocol()
    it.handshake()
    assert hear(it, line("bye", code="draining", detail="later", reconnect=True, after=5)) == []
    assert it.bye is not None
    assert (it.bye.reason.reconnect, it.bye.reason.after, it.in_room) == (True, 5, False)


def test_anything_else_instead_of_a_welcome_is_a_protocol_error() -> None:
    for strange in (message(1), b"* hello\n", b"[]\n", line("error", code=3), b'{"type":"welcome"}\n', b"{}\n"):
        it = client_protocol()
        it.handshake()
        with pytest.raises(ProtocolError):
            hear(it, strange)


# The stream


def test_every_kind_of_event() -> None:
    it = live()
    news = hear(
        it,
        line("joined", seq=0, name="Zoe"),
        message(1),
        line("renamed", seq=1, name="Zoe", to="Zo"),
        line("left", seq=1, name="Zo", reason="bye"),
        line("whisper", ts=9, name="Ada", text="psst"),
    )
    assert news == [
        Joined(0, "Zoe"),
        Message(1, 10, "Zoe", "hi"),
        Renamed(1, "Zoe", "Zo"),
        Left(1, "Zo", "bye"),
        Whisper(9, "Ada", "psst"),
    ]


def test_it_does_not_matter_how_the_bytes_are_cut() -> None:
    data = message(1, "für alle") + b"\r\n\n" + message(2) + message(3)
    for cut in range(1, 60):
        it = live()
        news = [n for at in range(0, len(data), cut) for n in it.receive_data(data[at : at + cut])]
        assert [n.seq for n in news if isinstance(n, Message)] == [1, 2, 3], cut


@pytest.mark.parametrize("seqs", [(2,), (1, 1), (1, 3), (0,), (1, 2, 1)])
def test_a_hole_or_a_repetition_is_a_protocol_error(seqs: tuple[int, ...]) -> None:
    it = live()
    with pytest.raises(ProtocolError):
        hear(it, *map(message, seqs))


def test_unknown_types_and_fields_are_ignored_but_hold_their_place() -> None:
    it = live()
    news = hear(
        it, line("topic", seq=1, ts=10, text="x"), line("typing", seq=1, who="Zoe"), line("x"), message(2, new=1)
    )
    assert news == [Message(2, 20, "Zoe", "hi")]
    assert hear(it, line("pong"), line("error", code="bad_frame", detail="?")) == []


@pytest.mark.parametrize(
    "strange",
    [
        b"nonsense\n",
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'"text"\n',
        b'{"type":["message"]}\n' + message(5),
        line("message", seq=1, ts=1, name="Zoe"),
        line("message", seq="1", ts=1, name="Zoe", text="x"),
        line("message", seq=1, ts=1, name=None, text="x"),
        line("ack"),
        line("ack", id=[], seq=4, ts=1),
        line("bye"),
        line("renamed", name="x"),
        line("welcome", name="Mina"),
        welcome(members=3),
        welcome(limits=3),
        b'{"type":"message","seq":1,"ts":1,"name":"Zoe","text":"\\ud800"}\n',
    ],
)
def test_what_makes_no_sense_is_a_protocol_error(strange: bytes) -> None:
    it = live()
    with pytest.raises(ProtocolError):
        hear(it, strange)


@given(st.lists(st.binary(max_size=50) | st.sampled_from([welcome(), message(1), line("ack", seq=2), b"{}", b"\n"])))
def test_any_bytes_are_news_or_a_chat_error(chunks: list[bytes]) -> None:
    for it in (client_protocol(), live()):
        try:
            for chunk in chunks:
                list(it.receive_data(chunk))
        except ChatError:
            pass


def test_a_frame_without_an_end_is_not_kept_for_ever() -> None:
    it = live()
    for _ in range(MAX_FRAME // 2**20):
        hear(it, b"x" * 2**20)
    with pytest.raises(ProtocolError):
        hear(it, b"x")


def test_nothing_is_parsed_before_it_is_asked_for() -> None:
    it = live()
    stream = it.receive_data(message(1) + message(2) + message(3))
    next(stream)
    assert it.seq == 1
    assert [n.seq for n in it.receive_data(message(4)) if isinstance(n, Message)] == [2, 3, 4]


def test_nothing_is_heard_after_a_goodbye() -> None:
    it = live()
    assert hear(it, line("bye", code="kicked", detail="out", reconnect=False), message(1)) == []
    assert isinstance(it.bye, Disconnected)
    assert (it.bye.reason.code, it.bye.reason.websocket, it.bye.detail) == ("kicked", 4005, "out")
    other = live()
    hear(other, line("bye", code="of_the_future", detail="?", reconnect=True, after="soon"))
    assert other.bye is not None
    assert (other.bye.reason.reconnect, other.bye.reason.after) == (True, 0)


# Replay on joining


@pytest.mark.parametrize("seqs", [(8, 9, 10, 11), (10, 11), (11,), ()])
def test_history_may_begin_anywhere_within_what_was_asked_for(seqs: tuple[int, ...]) -> None:
    it = client_protocol(history=3)
    it.handshake()
    news = hear(it, welcome(seq=10, ts=100), *map(message, seqs))
    assert [n.seq for n in news if isinstance(n, Message)] == list(seqs)


@pytest.mark.parametrize("seqs", [(7,), (8, 10), (9, 9), (12,), (9, 11)])
def test_history_has_no_holes(seqs: tuple[int, ...]) -> None:
    it = client_protocol(history=3)
    it.handshake()
    with pytest.raises(ProtocolError):
        hear(it, welcome(seq=10, ts=100), *map(message, seqs))


def test_a_connection_that_breaks_within_the_replay_goes_on_there() -> None:
    it = client_protocol(history=3)
    it.handshake()
    hear(it, welcome(seq=10, ts=100), message(8))
    it.connection_lost()
    shake = json.loads(it.handshake())
    assert shake["resume"] == {"epoch": "e1", "seq": 8, "ts": 80, "session": "key"}
    assert "history" not in shake
    assert hear(it, welcome(seq=10, ts=100, recovered=True), message(9))[1:] == [Message(9, 90, "Zoe", "hi")]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"seq": 10}, Recovered), ({"seq": 11}, Gap), ({"seq": 10, "epoch": "e2"}, Gap)],
)
def test_a_connection_that_breaks_before_the_replay_asks_for_it_again(fields: dict[str, Any], kind: type) -> None:
    it = client_protocol(history=3)
    it.handshake()
    hear(it, welcome(seq=10, ts=100))
    it.connection_lost()
    shake = json.loads(it.handshake())
    assert shake["history"] == 3
    assert shake["resume"] == {"epoch": "", "seq": 0, "ts": 0, "session": "key"}
    seq = fields["seq"]
    news = hear(it, welcome(recovered=False, reason="unknown_epoch", ts=1, **fields), message(seq - 1), message(seq))
    assert [type(n) for n in news] == [kind, Message, Message]


# What is sent, and acknowledged


def test_an_ack_is_the_own_message_at_its_place() -> None:
    it = live()
    one, two = it.ask("message", text="one"), it.ask("message", text="two")
    assert said(it) == [
        {"type": "message", "text": "one", "id": "p-1"},
        {"type": "message", "text": "two", "id": "p-2"},
    ]
    assert said(it) == []
    news = hear(it, message(1), line("ack", id="p-1", seq=2, ts=20), message(3), line("ack", id="p-2", seq=4, ts=40))
    assert [n.seq for n in news if isinstance(n, Message)] == [1, 3]
    assert outcome(one) == Message(2, 20, "Mina", "one")
    assert outcome(two) == Message(4, 40, "Mina", "two")
    assert not it.requests.awaited


def test_with_echo_the_own_message_is_both_answer_and_event() -> None:
    it = live(echo=True)
    request = it.ask("message", text="one ")
    said(it)
    assert hear(it, message(1, "one", "Mina", id="p-1")) == [Message(1, 10, "Mina", "one")]
    assert outcome(request) == Message(1, 10, "Mina", "one")


def test_a_duplicate_ack_is_no_place_in_the_stream() -> None:
    it = live()
    request = it.ask("message", text="one")
    said(it)
    hear(it, message(1), line("ack", id="p-1", seq=1, ts=10, duplicate=True), message(2))
    assert outcome(request) == Message(1, 10, "Mina", "one")
    assert it.seq == 2


def test_an_ack_for_nobody_still_holds_its_place() -> None:
    it = live()
    hear(it, line("ack", id="p-9", seq=1, ts=10), line("ack", id=None, seq=2, ts=20), message(3))
    assert it.seq == 3


def test_a_whisper_is_acknowledged_without_a_place() -> None:
    it = live()
    request, refused = it.ask("whisper", to="Zoe", text="psst"), it.ask("whisper", to="Ada", text="psst")
    assert said(it)[0] == {"type": "whisper", "to": "Zoe", "text": "psst", "id": "p-1"}
    hear(it, line("ack", id="p-1", seq=None, ts=5), line("error", code="not_delivered", detail="no", id="p-2"))
    assert outcome(request) is None
    assert isinstance(outcome(refused), NotDelivered)
    assert it.seq == 0


@pytest.mark.parametrize(
    ("code", "error"),
    [("text_too_long", TextTooLong), ("empty_text", SendRefused), ("bad_frame", SendRefused), ("name_taken", Refused)],
)
def test_a_refusal_settles_what_it_answers(code: str, error: type[Exception]) -> None:
    it = live()
    message, other = it.ask("message", text="x"), it.ask("rename", to="Zoe")
    said(it)
    hear(it, line("error", code=code, detail="no", id="p-1"), line("error", code=code, detail="no", ref="p-2"))
    for request in (message, other):
        assert isinstance(outcome(request), error)
        assert "no" in str(outcome(request))


def test_a_rename_is_answered_by_the_event_and_the_name_follows() -> None:
    it = live()
    request = it.ask("rename", to="Zoe")
    assert said(it) == [{"type": "rename", "to": "Zoe", "ref": "p-1"}]
    assert hear(it, line("renamed", seq=0, name="Mina", to="Zoe", ref="p-1")) == [Renamed(0, "Mina", "Zoe")]
    assert outcome(request) == Renamed(0, "Mina", "Zoe")
    assert it.name == "Zoe"
    hear(it, line("renamed", seq=0, name="Zoe", to="Zo"), line("renamed", seq=0, name="Ada", to="Eve"))
    assert it.name == "Zo"


def test_a_join_is_answered_by_a_welcome_and_another_count() -> None:
    it = live(history=5)
    hear(it, message(1))
    request = it.ask("join", room="ops")
    assert said(it) == [{"type": "join", "room": "ops", "ref": "p-1"}]
    news = hear(it, message(2), welcome(room="ops", epoch="o1", seq=40, ts=400, ref="p-1"), message(41))
    assert [type(n) for n in news] == [Message, Welcome, Message]
    assert outcome(request) == news[1]
    it.connection_lost()
    shake = json.loads(it.handshake())
    assert (shake["room"], shake["resume"]["epoch"], shake["resume"]["seq"]) == ("ops", "o1", 41)
    assert "history" not in shake


def test_a_join_replays_no_history() -> None:
    it = live(history=5)
    with pytest.raises(ProtocolError):
        hear(it, welcome(room="ops", epoch="o1", seq=40, ts=400), message(39))


@pytest.mark.parametrize("kind", ["members", "rooms", "history"])
def test_questions_are_answered_by_their_ref(kind: str) -> None:
    it = live()
    one, two = it.ask(kind, after=None), it.ask("ping")
    assert said(it) == [{"type": kind, "ref": "p-1"}, {"type": "ping", "ref": "p-2"}]
    hear(it, line("pong", ref="p-2"), line(kind, ref="other"), line(kind, ref="p-1", members=[]))
    assert outcome(one)["type"] == kind
    assert outcome(two)["type"] == "pong"


def test_what_is_in_flight_is_bounded() -> None:
    it = live(max_in_flight=2)
    for text in "abc":
        it.ask("message", text=text)
    assert texts(it) == ["a", "b"]
    assert texts(it) == []
    hear(it, line("ack", id="p-1", seq=1, ts=1))
    assert texts(it) == ["c"]


def test_one_write_is_bounded() -> None:
    it = live()
    for _ in range(300):
        it.ask("message", text="x" * 900)
    sizes = []
    while data := it.data_to_send(0):
        sizes.append(data.count(b"\n"))
    assert len(sizes) > 3
    assert sum(sizes) == 256


def test_a_frame_that_the_server_would_not_take_is_not_sent() -> None:
    it = live()
    it.ask("message", text="x" * 900)
    with pytest.raises(TextTooLong):
        it.ask("message", text="x" * 1000)
    with pytest.raises(ValueError, match="surrogate"):
        it.ask("message", text="\ud800")
    assert len(said(it)) == 1


def test_nothing_is_said_before_the_welcome() -> None:
    it = client_protocol()
    it.handshake()
    it.ask("message", text="x")
    assert it.data_to_send(0) == b""
    hear(it, welcome())
    assert texts(it) == ["x"]


def test_a_sign_of_life_is_asked_for_once() -> None:
    it = live(max_in_flight=1)
    it.ask("message", text="x")
    said(it)
    it.ping()
    assert said(it) == [{"type": "ping"}]
    assert said(it) == []


# Cancelling and leaving


def test_what_is_withdrawn_before_it_was_written_is_never_said() -> None:
    it = live(max_in_flight=1)
    first, second = it.ask("message", text="a"), it.ask("message", text="b")
    said(it)
    it.requests.withdraw(second)
    it.requests.withdraw(first)
    assert not it.requests.awaited
    hear(it, line("ack", id="p-1", seq=1, ts=1))
    assert it.seq == 1
    assert said(it) == []


def test_what_is_withdrawn_after_it_was_written_is_not_said_again() -> None:
    it = live()
    first, _ = it.ask("message", text="a"), it.ask("message", text="b")
    said(it)
    it.requests.withdraw(first)
    again(it)
    assert texts(it) == ["b"]


def test_goodbye_is_said_once_everything_is_answered() -> None:
    it = live()
    it.ask("message", text="a")
    it.leaving = True
    assert texts(it) == ["a"]
    assert texts(it) == []
    hear(it, line("ack", id="p-1", seq=1, ts=1))
    assert texts(it) == ["bye"]
    assert it.bye_sent
    assert texts(it) == []


def test_when_it_is_over_every_request_fails_with_its_own_error() -> None:
    it = live(max_in_flight=1)
    requests = [it.ask("message", text=text) for text in "ab"]
    said(it)
    it.requests.fail_all(lambda: ChatError("over"))
    assert str(outcome(requests[0])) == str(outcome(requests[1])) == "over"
    assert outcome(requests[0]) is not outcome(requests[1])
    hear(it, line("ack", id="p-1", seq=1, ts=1))
    assert isinstance(outcome(requests[0]), ChatError)
    assert not it.requests.awaited
