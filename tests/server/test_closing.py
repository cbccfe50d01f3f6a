"""How a connection closes: what is told, flushed, logged and freed, also at the telnet door."""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable, Iterator

import pytest
from ways import closed

from chatapi import DISCONNECTS, Client, Limits
from chatapi.server.connection import Connection
from chatapi.testing import ChatKit, LateBroker

# Closing


def test_a_goodbye_comes_last_and_the_close_waits_for_the_other_side() -> None:
    kit = ChatKit()
    a, b = kit.member("a"), kit.member("b")
    b.send("for a\n")
    kit.settle()
    a.send("/bye\nignored\n")
    assert a.lines() == ["b:for a", "* goodbye"]
    assert a.transport.ended
    assert not a.transport.closed
    assert b.received() == ""
    a.send("still talking\n")
    kit.settle()
    assert not a.transport.closed
    a.end()
    kit.settle()
    assert closed(a)


def test_a_client_that_never_ends_its_stream_is_closed_after_a_while() -> None:
    kit = ChatKit()
    a = kit.member("a")
    a.send("/bye\n")
    assert a.lines() == ["* goodbye"]
    kit.wait(1.9)
    assert not a.transport.closed
    kit.wait(0.3)
    assert closed(a)


def test_the_end_of_a_stream_means_leaving_with_everything_owed_flushed() -> None:
    kit = ChatKit()
    a, b = kit.member("a", capacity=10), kit.member("b", notices=True)
    b.send("before\n")
    kit.settle()
    a.send("/list\nlast words")
    a.end()
    kit.settle()
    b.send("after\n")
    assert a.lines() == ["b:before", "* in dev (2): a, b"]
    assert closed(a)
    assert b.lines() == ["a:last words", "* a left"]


def test_a_client_that_takes_nothing_more_is_closed_when_the_grace_is_over() -> None:
    kit = ChatKit(Limits(grace=3))
    a = kit.member("a", capacity=0)
    a.send("/help\n/bye\n")
    kit.wait(2.8)
    assert not a.transport.closed
    kit.wait(0.4)
    assert a.transport.closed
    assert not kit.hub.connections


@pytest.mark.parametrize("disconnect", DISCONNECTS)
def test_every_reason_of_the_table_is_told_and_counted(disconnect: str) -> None:
    kit = ChatKit()
    a, b = kit.member("a"), kit.member("b", notices=True)
    assert a.connection.client is not None
    a.connection.client.disconnect(disconnect)
    detail = DISCONNECTS[disconnect].detail
    assert a.lines() == ["* goodbye" if disconnect == "bye" else f"* {disconnect}: {detail}"]
    assert a.transport.ended
    left = "* a left" if disconnect == "bye" else f"* a left ({disconnect})"
    assert b.lines() == [left]
    assert kit.hub.disconnects == {disconnect: 1}


def test_a_fault_of_the_program_ends_one_connection_and_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kit = ChatKit()
    a, b, c = (kit.member(name) for name in "abc")

    def broken(data: bytes) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(b.transport, "send", broken)
    monkeypatch.setattr(b.connection, "send", broken)
    a.send("hello\n")
    assert c.lines() == ["a:hello"]
    assert "an error inside the server" in caplog.text
    assert kit.hub.disconnects == {"server_error": 1}
    kit.wait(10)
    assert b.transport.closed
    a.send("again\n")
    assert c.lines() == ["a:again"]


def test_a_fault_while_a_failed_send_is_dealt_with_ends_no_round(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_memory(read: bool, write: bool) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    kit = ChatKit()
    a, b, c = kit.member("a"), kit.member("b", capacity=0), kit.member("c")
    monkeypatch.setattr(b.transport, "watch", no_memory)
    a.send("hello\n")
    assert c.lines() == ["a:hello"]
    assert "an error inside the server" in caplog.text
    assert kit.hub.disconnects == {"server_error": 1}


# Telnet


def test_telnet_asks_until_a_nickname_can_be_had() -> None:
    kit = ChatKit(lobby="lobby")
    kit.member("Mina", "lobby")
    t = kit.connect(telnet=True)
    assert t.received() == "* welcome to MaChat; you are about to join lobby\r\nNickname: "
    t.send("mina\r\n")
    assert t.received() == "* 'Mina' is already in 'lobby'\r\nNickname: "
    t.send("\r\n@x\r\n")
    assert t.received().count("Nickname: ") == 2
    t.send(b"\xff\xfe\r\nZoe\r\n")
    text = t.received()
    assert "hello Zoe; in lobby (2): Mina, Zoe\r\n" in text


def test_telnet_is_told_what_goes_on() -> None:
    kit = ChatKit()
    t = kit.connect(telnet=True)
    t.send("Zoe\r\n")
    t.received()
    a = kit.member("a", "lounge")
    a.send("hi\n/nick b\n")
    kit.settle()
    t.send("hello\r\0/bye\r\n")
    assert t.received() == "* a joined\r\na: hi\r\n* a is now b\r\n* goodbye\r\n"
    assert a.lines() == ["* you are now b", "Zoe:hello"]


def test_telnet_options_are_refused_and_never_shown() -> None:
    kit = ChatKit()
    t = kit.connect(telnet=True)
    t.received()
    t.send(b"\xff\xfb\x18\xff\xfd\x01\xff\xfa\x18\x00abc\xff\xf0\xff\xfc\x05Zo\xff\xf1e\r\n")
    kit.settle()
    sent = t.transport.take()
    assert sent.startswith(b"\xff\xfe\x18\xff\xfc\x01")
    assert b"hello Zoe; in lounge" in sent


def test_endless_bad_nicknames_are_a_flood() -> None:
    kit = ChatKit(Limits(flood=5))
    t = kit.connect(telnet=True)
    t.send("/\r\n" * 20)
    text = t.received()
    assert text.count("Nickname: ") <= 8
    assert "* flood: " in text
    assert t.transport.ended


def test_a_person_has_more_time_than_a_program() -> None:
    kit = ChatKit()
    t = kit.connect(telnet=True)
    kit.wait(119)
    assert t.received().endswith("Nickname: ")
    kit.wait(2)
    assert "handshake_timeout" in t.received()
    assert t.transport.ended


# The log


def test_joins_leaves_and_refusals_are_logged_and_what_is_said_is_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "chatapi")
    kit = ChatKit()
    a = kit.member("Mina", address="10.1.2.3:4")
    kit.member("Mina", address="10.1.2.4:5")
    a.send("a secret\n/join lounge\n/bye\n")
    a.received()
    assert [record.getMessage() for record in caplog.records] == [
        "Mina joined dev from 10.1.2.3:4",
        "refused 10.1.2.4:5: name_taken: 'Mina' is already in 'dev'",
        "Mina went from dev to lounge",
        "Mina left from 10.1.2.3:4: bye",
    ]


# What is left


@pytest.fixture
def left_over() -> Iterator[Callable[[], list[type]]]:
    """Connections and clients that the test made and that still exist, while no garbage collector runs."""
    gc.collect()
    gc.freeze()  # what is here now belongs to other tests: `get_objects` leaves it out
    gc.disable()
    yield lambda: [type(found) for found in gc.get_objects() if isinstance(found, Connection | Client)]
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize("fields", [{}, {"protocol": "json"}], ids=["text", "json"])
@pytest.mark.parametrize("ended", [False, True], ids=["at once", "after its end of stream"])
def test_a_member_whose_connection_breaks_is_gone_before_the_broker_answers(
    ended: bool, fields: dict[str, str]
) -> None:
    kit = ChatKit(Limits(reserve=0), broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    zoe = kit.member("Zoe", notices=True)
    mina = kit.member("Mina", **fields)
    kit.broker.release()
    zoe.received()
    mina.send('{"type":"message","text":"hello"}\n' if fields else "hello\n")
    if ended:
        mina.end()
        kit.settle()
        assert not mina.transport.closed, "it is told first what has become of its message"
    mina.transport.reset()
    if ended:
        mina.connection.notice("available", "")  # sending fails, which is noticed nowhere else
    kit.settle()
    assert mina.transport.closed
    kit.wait(1)
    kit.broker.release()
    assert zoe.lines() == ["Mina:hello", "* Mina left (connection_lost)"]


@pytest.mark.parametrize("fields", [{}, {"protocol": "json"}], ids=["text", "json"])
def test_a_client_that_has_left_is_no_work_for_the_garbage_collector(
    left_over: Callable[[], list[type]], fields: dict[str, str]
) -> None:
    kit = ChatKit()
    for how in ("bye", "end", "reset", "kicked", "refused"):
        peer = kit.member("@" if how == "refused" else "Mina", **fields)
        if how == "bye":
            peer.send('{"type":"bye"}\n' if fields else "/bye\n")
        elif how == "end":
            peer.end()
        elif how == "reset":
            peer.transport.reset()
        elif how == "kicked":
            peer.connection.disconnect("kicked")
        kit.settle()
        kit.wait(400)  # the memory of sessions
        assert peer.transport.closed
        kit.peers.remove(peer)
        del peer
        assert left_over() == [], how


def test_a_client_that_is_closed_with_the_server_is_not_kept_until_it_is_served_again(
    left_over: Callable[[], list[type]],
) -> None:
    kit = ChatKit()
    peer = kit.member("Mina")
    peer.connection.abort("draining")
    kit.peers.remove(peer)
    del peer
    assert left_over() == []
