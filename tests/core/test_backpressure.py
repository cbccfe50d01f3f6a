"""Slow members: first those who talk wait for them, then they are disconnected; memory stays bounded all the while."""

from __future__ import annotations

from chatapi import Limits
from chatapi.limits import CHUNK_BYTES
from chatapi.testing import ChatKit, LateBroker, Peer

LIMITS = Limits(rate=0, log_entries=64, log_bytes=65536, grace=5)


def talk(kit: ChatKit, peer: Peer, lines: int) -> None:
    """Send lines one by one, for as long as the server reads."""
    for i in range(lines):
        peer.send(f"{i}\n")
        kit.settle()


def test_while_a_member_lags_by_half_the_log_nobody_is_read_from() -> None:
    kit = ChatKit(LIMITS)
    talker, reader, slow = kit.member("talker"), kit.member("reader"), kit.member("slow", capacity=0)
    talk(kit, talker, 100)
    heard = len(reader.lines())
    assert 32 <= heard < 64
    assert not talker.transport.reading
    slow.transport.capacity = 1 << 30
    assert [*slow.lines()] == [f"talker:{i}" for i in range(100)]
    assert len(reader.lines()) == 100 - heard
    assert talker.transport.reading


def test_a_member_that_does_not_recover_within_the_grace_is_disconnected_and_the_others_get_everything() -> None:
    kit = ChatKit(LIMITS)
    talker, reader, slow = kit.member("talker"), kit.member("reader"), kit.member("slow", capacity=0)
    talk(kit, talker, 100)
    kit.wait(4.8)
    assert not talker.transport.reading
    kit.wait(0.4)
    assert reader.lines() == [f"talker:{i}" for i in range(100)]
    assert talker.transport.reading
    assert kit.hub.disconnects == {"slow_consumer": 1}
    assert kit.hub.room("dev").member("slow") is None  # type: ignore[union-attr]
    kit.wait(3)
    assert slow.transport.closed
    assert slow.transport.given_up, "the kernel keeps what nobody will read"


def test_what_the_system_has_taken_is_not_destroyed_when_the_other_side_says_nothing() -> None:
    kit = ChatKit(LIMITS)
    peer = kit.member("Mina")
    peer.connection.disconnect("kicked")
    kit.wait(3)
    assert peer.transport.closed
    assert not peer.transport.given_up


def test_a_slow_member_that_takes_bytes_again_is_told_why_after_a_whole_line() -> None:
    kit = ChatKit(LIMITS)
    talker, slow = kit.member("talker"), kit.member("slow", capacity=25)
    talk(kit, talker, 100)
    kit.wait(5.5)
    slow.transport.capacity = 1 << 30
    text = slow.received()
    assert text.endswith("\n* slow_consumer: you read too slowly to keep up with the room\n")
    assert slow.transport.ended
    lines = text.splitlines()[:-1]
    assert lines == [f"talker:{i}" for i in range(len(lines))]


def test_a_member_that_was_just_disconnected_for_being_slow_is_not_waited_for_again() -> None:
    kit = ChatKit(LIMITS)
    talker, reader = kit.member("talker"), kit.member("reader")
    kit.member("slow", capacity=0, address="10.9.9.9:1")
    talk(kit, talker, 100)
    kit.wait(6)
    assert len(reader.lines()) == 100
    for name, address in (("slow", "10.8.8.8:1"), ("other", "10.9.9.9:2")):
        kit.member(name, capacity=0, address=address)
        talk(kit, talker, 100)
        assert len(reader.lines()) == 100, "the room waited"
    assert kit.hub.disconnects == {"slow_consumer": 3}
    kit.wait(61)
    kit.member("slow", capacity=0, address="10.9.9.9:3")
    talk(kit, talker, 100)
    assert len(reader.lines()) < 64, "after a minute it is forgiven"


def test_a_member_that_reads_slowly_but_steadily_stays_if_the_room_may_wait_for_it() -> None:
    kit = ChatKit(Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, room_wait=120))
    talker, slow = kit.member("talker"), kit.member("slow", capacity=100)
    for i in range(300):
        talker.send(f"{i}\n")
    text = b""
    for _ in range(600):
        kit.wait(0.1)
        text += slow.transport.take(20)
    text += slow.received().encode()
    assert text.decode().splitlines() == [f"talker:{i}" for i in range(300)]
    assert not kit.hub.disconnects


def test_stalled_members_hold_no_more_than_one_chunk_each() -> None:
    kit = ChatKit(Limits(rate=0, log_bytes=1 << 20, grace=60))
    talker = kit.member("talker")
    slow = [kit.member(f"slow{i}", capacity=100 * i) for i in range(20)]
    for _ in range(200):
        talker.send(("x" * 1000 + "\n") * 60)
        kit.settle()
    room = kit.hub.room("dev")
    assert room is not None
    assert room.log.held <= (1 << 20)
    assert not room.fresh
    for peer in slow:
        unsent = peer.connection._send_buffer._unsent
        assert unsent is not None
        assert len(unsent) <= 2 * CHUNK_BYTES


def test_a_chunk_of_many_short_messages_is_no_larger() -> None:
    kit = ChatKit(Limits(rate=0))
    talker, slow = kit.member("t"), kit.member("slow", protocol="json", capacity=1000)
    talk(kit, talker, 4000)
    slow.transport.take()  # it is given more
    kit.settle()
    assert 0 < slow.connection._send_buffer.waiting <= 2 * CHUNK_BYTES


def test_a_broker_with_too_much_in_hand_pauses_only_members_that_send() -> None:
    kit = ChatKit(Limits(rate=0, in_hand_bytes=65536), broker=LateBroker)
    a, b = kit.member("a"), kit.member("b")
    for _ in range(40):
        a.send("x" * 8000 + "\n")
        kit.settle()
    assert isinstance(kit.broker, LateBroker)
    assert not a.transport.reading
    assert kit.broker.pending < 15
    b.send("@a psst\n")
    while kit.broker.release(3):
        kit.settle()
    assert "* b whispers: psst" in a.lines()
    assert len(b.lines()) == 40
    assert a.transport.reading
