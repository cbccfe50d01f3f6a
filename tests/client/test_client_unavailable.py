"""What the client library does with messages that the server cannot keep for a while."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from client_protocols import (
    AVAILABLE,
    UNAVAILABLE,
    ack,
    again,
    hear,
    line,
    live,
    message,
    outcome,
    refusal,
    said,
    texts,
    welcome,
)

from chatapi.client.events import Notice
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import RESEND_WITHIN, Request
from chatapi.errors import ChatError, Disconnected, Refused
from chatapi.events import Message

pytestmark = pytest.mark.anyio


def held(*given: str, now: float = 0, **arguments: Any) -> tuple[ClientProtocol, list[Request]]:
    """A client protocol whose messages were all written and refused, and which waits for a second from `now`."""
    it = live(**arguments)
    requests = [it.ask("message", text=text) for text in given]
    assert texts(it, now) == [*given]
    hear(it, *[refusal(request.number) for request in requests])
    assert texts(it, now) == []
    assert it.requests.next_attempt(now) == now + 1
    return it, requests


def test_a_message_that_could_not_be_kept_goes_out_again_under_its_id_after_a_pause() -> None:
    it, [request] = held("a")
    assert not request.done
    assert texts(it, 0.9) == []
    assert said(it, 1) == [{"type": "message", "text": "a", "id": "p-1"}]
    assert it.requests.next_attempt(1) == inf  # it is the server's turn
    hear(it, ack(1, 1))
    assert outcome(request) == Message(1, 10, "Mina", "a")
    assert it.requests.next_attempt(1) == inf


def test_the_pauses_grow_and_begin_anew_once_something_is_kept() -> None:
    it, [request] = held("a")
    now = 0.0
    for pause in (1, 2, 4, 8):
        assert it.requests.next_attempt(now) == now + pause
        now += pause
        assert texts(it, now) == ["a"]
        hear(it, refusal(1))
        assert texts(it, now) == []
    hear(it, AVAILABLE)
    assert texts(it, now) == ["a"]
    hear(it, ack(1, 1))
    assert request.done
    it.ask("message", text="b")
    assert texts(it, now) == ["b"]
    hear(it, refusal(2))
    assert texts(it, now) == []
    assert it.requests.next_attempt(now) == now + 1


def test_available_ends_the_pause_and_unavailable_does_not() -> None:
    it, _ = held("a")
    hear(it, UNAVAILABLE)
    assert texts(it, 0) == []
    hear(it, AVAILABLE)
    assert texts(it, 0) == ["a"]


def test_what_the_server_says_of_itself_is_told_and_holds_nothing_back() -> None:
    it = live()
    it.ask("message", text="a")
    assert texts(it) == ["a"]
    assert hear(it, UNAVAILABLE, UNAVAILABLE, message(1), ack(1, 2), AVAILABLE, AVAILABLE) == [
        Notice("unavailable", "Redis is away"),
        Message(1, 10, "Zoe", "hi"),
        Notice("available", "Redis is back"),
    ]
    assert hear(it, UNAVAILABLE) == [Notice("unavailable", "Redis is away")]
    it.ask("message", text="b")
    assert texts(it) == ["b"]


@pytest.mark.parametrize("echo", [False, True])
def test_what_is_refused_and_then_kept_is_told_too_where_the_server_says_nothing(echo: bool) -> None:
    it = live(echo=echo)
    it.ask("message", text="a")
    it.ask("message", text="b")
    texts(it)
    assert hear(it, refusal(1), message(1), refusal(2)) == [
        Notice("unavailable", "not kept: Redis is away"),
        Message(1, 10, "Zoe", "hi"),
    ]
    texts(it, 0)
    texts(it, 1)
    assert hear(it, refusal(1)) == []
    texts(it, 1)
    texts(it, 3)
    kept = message(2, "a", "Mina", id="p-1") if echo else ack(1, 2)
    assert hear(it, kept)[echo:] == [Notice("available", "messages can be kept again")]
    texts(it, 3)
    assert hear(it, message(3, "b", "Mina", id="p-2") if echo else ack(2, 3))[echo:] == []


def test_a_server_that_says_it_too_is_heard_once() -> None:
    it, _ = held("a")
    assert hear(it, UNAVAILABLE) == []
    texts(it, 1)
    assert hear(it, ack(1, 1)) == []  # how it is now, it will say itself
    assert hear(it, AVAILABLE) == [Notice("available", "Redis is back")]
    it.ask("message", text="b")
    texts(it, 1)
    assert hear(it, UNAVAILABLE, refusal(2)) == [Notice("unavailable", "Redis is away")]


def test_on_another_connection_it_is_told_anew() -> None:
    it, _ = held("a")
    again(it, recovered=True)
    texts(it, 0)
    assert hear(it, refusal(1)) == [Notice("unavailable", "not kept: Redis is away")]


def test_notices_of_a_later_server_are_passed_on() -> None:
    later = line("notice", code="of_the_future", detail="?")
    assert hear(live(), later, later) == [Notice("of_the_future", "?")] * 2


def test_until_one_is_kept_only_the_first_is_tried_and_then_all_follow_in_order() -> None:
    it, _ = held("a", "b", "c")
    it.ask("message", text="d")
    assert texts(it, 1) == ["a"]
    assert texts(it, 100) == []
    hear(it, refusal(1))
    assert texts(it, 100) == []
    assert texts(it, 102) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 102) == ["b", "c", "d"]


def test_nothing_is_written_before_all_that_was_on_its_way_is_answered() -> None:
    it = live()
    for text in "abcd":
        it.ask("message", text=text)
    assert texts(it) == ["a", "b", "c", "d"]
    hear(it, refusal(3))
    it.ask("message", text="e")
    assert texts(it, 100) == []
    assert hear(it, ack(2, 1)) == []  # that is no word of the others yet
    assert texts(it, 100) == []
    hear(it, refusal(1), AVAILABLE)
    assert texts(it, 100) == []
    hear(it, refusal(4))
    assert texts(it, 100) == []
    assert texts(it, 101) == ["a"]
    hear(it, ack(1, 2))
    assert texts(it, 101) == ["c", "d", "e"]


def test_if_the_last_message_in_flight_was_kept_the_refused_ones_follow_at_once() -> None:
    it = live()
    for text in "abc":
        it.ask("message", text=text)
    texts(it)
    hear(it, refusal(1), refusal(2), ack(3, 1))
    it.ask("message", text="d")
    assert texts(it) == ["a", "b", "d"]


@pytest.mark.parametrize("echo", [False, True])
def test_a_message_that_turns_up_after_all_is_not_sent_again(echo: bool) -> None:
    it, [request] = held("a", echo=echo)
    it.ask("message", text="b")
    place = message(2, "a", "Mina", id="p-1") if echo else ack(1, 2)
    news = hear(it, message(1), place, message(3))
    assert len([event for event in news if isinstance(event, Message)]) == 2 + echo
    assert outcome(request) == Message(2, 20, "Mina", "a")
    assert it.seq == 3
    assert texts(it, 0) == ["b"]


def test_a_duplicate_is_kept_too() -> None:
    it, [request, _] = held("a", "b")
    hear(it, message(1))
    texts(it, 1)
    hear(it, ack(1, 1, duplicate=True), message(2))
    assert outcome(request) == Message(1, 10, "Mina", "a")
    assert it.seq == 2
    assert texts(it, 1) == ["b"]


def test_whichever_answer_comes_last_a_message_is_kept_once() -> None:
    """Sent again while the first refusal was still on its way: that one comes first, and then the message's place."""
    it, [request] = held("a")
    assert texts(it, 1) == ["a"]
    hear(it, refusal(1), refusal(1))
    assert not request.done
    hear(it, ack(1, 1), ack(1, 1, duplicate=True))
    assert outcome(request) == Message(1, 10, "Mina", "a")
    assert texts(it, 100) == []
    assert not it.requests.awaited


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("whisper", {"to": "Zoe", "text": "psst"}),
        ("rename", {"to": "Zoe"}),
        ("join", {"room": "ops"}),
        ("members", {}),
        ("rooms", {}),
        ("history", {}),
    ],
)
def test_anything_else_is_refused_at_once(kind: str, fields: dict[str, Any]) -> None:
    it = live()
    request = it.ask(kind, **fields)
    [frame] = said(it)
    about = {key: frame[key] for key in ("id", "ref") if key in frame}
    hear(it, line("error", code="unavailable", detail="Redis is away", **about))
    refused = outcome(request)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.detail) == ("unavailable", "Redis is away")
    it.ask("message", text="a")
    assert texts(it) == ["a"]


def test_questions_do_not_wait_behind_what_is_held_back() -> None:
    it, _ = held("a")
    it.ask("message", text="b")
    for kind in ("ping", "members", "rooms", "history", "rename"):
        it.ask(kind)
    it.ask("whisper", to="Zoe", text="psst")
    assert texts(it, 0) == ["ping", "members", "rooms", "history", "rename", "psst"]


def test_a_join_waits_for_what_was_said_before_it() -> None:
    it, _ = held("a")
    it.ask("join", room="ops")
    it.ask("message", text="b")
    it.ask("ping")
    assert texts(it, 0) == []
    assert texts(it, 1) == ["a"]
    assert texts(it, 1) == []
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["join"]
    hear(it, welcome(room="ops", ref="p-2"))
    assert texts(it, 1) == ["b", "ping"]


def test_a_message_is_not_said_again_in_another_room() -> None:
    it = live()
    it.ask("message", text="a")
    it.ask("join", room="ops")
    assert texts(it) == ["a"]  # it may have to be said again, and is meant for this room
    hear(it, refusal(1))
    assert texts(it, 0) == []
    assert texts(it, 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["join"]


def test_after_290_seconds_it_is_refused_whether_or_not_it_was_ever_written() -> None:
    it, [first] = held("a", now=5)
    second = it.ask("message", text="b")
    assert texts(it, 10) == ["a"]
    hear(it, refusal(1))
    texts(it, 10)
    third = it.ask("message", text="c")
    assert texts(it, 4.9 + RESEND_WITHIN) == ["a"]
    hear(it, refusal(1))
    assert texts(it, 5.1 + RESEND_WITHIN) == []
    assert (first.done, second.done, third.done) == (True, False, False)
    assert texts(it, 11 + RESEND_WITHIN) == ["c"]
    assert (second.done, third.done) == (True, False)
    hear(it, refusal(3))
    assert texts(it, 6 + 2 * RESEND_WITHIN) == []
    for request in (first, second, third):
        refused = outcome(request)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.detail) == ("unavailable", "not kept: Redis is away")
    assert len({id(request.error) for request in (first, second, third)}) == 3
    it.ask("message", text="d")
    assert texts(it, 6 + 2 * RESEND_WITHIN) == ["d"]


def test_what_was_never_written_is_sent_however_late_once_the_server_is_back() -> None:
    it, _ = held("a", max_in_flight=1)
    late = [it.ask("message", text=text) for text in "bc"]
    assert texts(it, 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["b"]
    hear(it, ack(2, 2))
    assert texts(it, 2 * RESEND_WITHIN) == ["c"]
    assert [request.done for request in late] == [True, False]


def test_a_refused_message_is_not_sent_so_late_that_it_could_be_kept_twice() -> None:
    it, [_, second] = held("a", "b")
    assert texts(it, RESEND_WITHIN - 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, RESEND_WITHIN + 1) == []
    assert isinstance(outcome(second), Refused)


def test_on_another_connection_it_is_tried_at_once_and_in_order() -> None:
    it = live()
    for text in "abc":
        it.ask("message", text=text)
    texts(it)
    hear(it, refusal(2))
    assert it.requests.next_attempt(0) == inf
    again(it, recovered=True)
    it.ask("message", text="d")
    assert texts(it, 0) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 0) == ["b", "c", "d"]


def test_what_happened_last_tells_why_it_was_given_up() -> None:
    it, [first, second] = held("a", "b")
    assert texts(it, 1) == ["a"]
    again(it, recovered=True)  # nobody knows of the first one any more; the second one was refused
    assert texts(it, RESEND_WITHIN + 1) == []
    assert isinstance(outcome(first), Disconnected)
    assert isinstance(outcome(second), Refused)


def test_where_there_is_no_connection_nothing_is_due() -> None:
    it, _ = held("a")
    it.connection_lost()
    assert it.requests.next_attempt(0) == inf


def test_what_is_withdrawn_is_not_sent_again() -> None:
    it, requests = held("a", "b")
    it.requests.withdraw(requests[0])
    assert texts(it, 1) == ["b"]
    it.requests.withdraw(requests[1])
    assert not it.requests.awaited
    hear(it, refusal(2))
    assert not it.requests.awaited
    assert texts(it, 100) == []
    it.ask("message", text="c")
    assert texts(it, 100) == ["c"]


def test_a_refusal_that_nobody_waits_for_holds_the_other_messages_back_too() -> None:
    it, [first, _] = held("a", "b")
    assert texts(it, 1) == ["a"]
    it.requests.withdraw(first)
    hear(it, refusal(1))
    assert texts(it, 1) == []
    assert it.requests.next_attempt(1) == 3
    assert texts(it, 3) == ["b"]


def test_the_end_tells_which_messages_were_refused_and_which_may_have_been_kept() -> None:
    it = live()
    refused, unsure = it.ask("message", text="a"), it.ask("message", text="b")
    texts(it)
    hear(it, refusal(1))
    texts(it)
    waiting, question = it.ask("message", text="c"), it.ask("ping")
    texts(it)
    it.requests.fail_all(lambda: ChatError("over"))
    assert [type(outcome(request)) for request in (refused, unsure, waiting, question)] == [
        Refused,
        ChatError,
        Refused,
        ChatError,
    ]


def test_goodbye_is_said_once_all_is_kept() -> None:
    it, _ = held("a")
    it.leaving = True
    assert texts(it, 0) == []
    assert texts(it, 1) == ["a"]
    hear(it, ack(1, 1))
    assert texts(it, 1) == ["bye"]
