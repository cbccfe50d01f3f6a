"""Sessions of members that have left take a bounded number of bytes, in all and for each address."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from chatapi import Limits
from chatapi.core.broker import Sent, unavailable
from chatapi.limits import SESSION_COST
from chatapi.pending import Pending
from chatapi.testing import ChatKit, LateBroker, Peer, VirtualClock

HOME = "203.0.113.7"
SMALL = Limits(rate=0, address_session_bytes=64 * 1024, session_bytes=1024 * 1024)


def say(peer: Peer, ids: int, text: str = "x", first: int = 0) -> None:
    peer.send("".join(frame(type="message", id=f"{first + i:08}", text=text) for i in range(ids)))


def frame(**fields: Any) -> str:
    return json.dumps(fields) + "\n"


def visit(kit: ChatKit, name: str, ids: int, host: str = HOME, room: str = "dev") -> tuple[Peer, str]:
    """A JSON member that says something under so many ids; with the key of its session."""
    peer = kit.member(name, room, protocol="json", address=f"{host}:1")
    say(peer, ids)
    kit.settle()
    welcome = json.loads(peer.lines()[0])
    assert welcome["type"] == "welcome", welcome
    return peer, welcome["session"]


def is_known(kit: ChatKit, key: str) -> bool:
    return kit.hub.sessions.find(key) is not None


def loses_its_connection(peer: Peer) -> None:
    peer.transport.reset()


def ends_its_stream(peer: Peer) -> None:
    peer.end()


def reads_too_slowly(peer: Peer) -> None:
    peer.connection.disconnect("slow_consumer")


def makes_a_flood_of_faults(peer: Peer) -> None:
    peer.send(frame(type="nonsense") * 60)


def is_disconnected_by_a_fault_of_the_server(peer: Peer) -> None:
    peer.connection.disconnect("server_error")


def says_goodbye(peer: Peer) -> None:
    peer.send(frame(type="bye"))


WAYS: list[Callable[[Peer], None]] = [
    loses_its_connection,
    ends_its_stream,
    reads_too_slowly,
    makes_a_flood_of_faults,
    is_disconnected_by_a_fault_of_the_server,
    says_goodbye,
]


@pytest.mark.parametrize("later", [0, 6], ids=["while its name is reserved", "afterwards"])
@pytest.mark.parametrize("leave", WAYS, ids=lambda leave: leave.__name__)
def test_members_that_join_and_leave_without_end_take_a_bounded_number_of_bytes(
    leave: Callable[[Peer], None], later: float
) -> None:
    kit = ChatKit(SMALL)
    kit.member("witness")
    keys = []
    for i in range(60):
        peer, key = visit(kit, f"m{i}", 20)
        leave(peer)
        kit.wait(later)
        kit.settle()
        keys.append(key)
        assert kit.hub.sessions.size <= SMALL.address_session_bytes
    assert len(kit.hub.sessions) < 60
    known = [is_known(kit, key) for key in keys]
    assert known == sorted(known), "those that left last are known"
    assert any(known) is (leave is not says_goodbye)
    kit.wait(400)
    assert (len(kit.hub.sessions), kit.hub.sessions.size) == (0, 0)


def test_a_name_is_free_once_its_session_was_forgotten() -> None:
    kit = ChatKit(SMALL)
    witness = kit.member("witness", notices=True)
    for i in range(30):
        peer, _ = visit(kit, f"m{i}", 20)
        peer.transport.reset()
        kit.settle()
    assert "* m0 left (connection_lost)" in witness.lines()
    visit(kit, "m0", 0, host="203.0.113.8")
    refused = kit.member("m29", protocol="json", address="203.0.113.8:1")
    assert json.loads(refused.lines()[0])["code"] == "name_taken"


def test_a_forgotten_session_is_to_its_client_a_key_that_nobody_knows() -> None:
    kit = ChatKit(SMALL)
    kit.member("witness")
    keys = []
    for i in range(30):
        peer, key = visit(kit, f"m{i}", 20)
        peer.transport.reset()
        kit.settle()
        keys.append(key)
    resume = {"session": keys[0], "epoch": kit.hub.room("dev").epoch, "seq": 1, "ts": 1}  # type: ignore[union-attr]
    peer = kit.member("m0", protocol="json", address=f"{HOME}:1", resume=resume)
    welcome = json.loads(peer.lines()[0])
    assert welcome["session"] not in keys
    resume["session"] = keys[-1]
    peer = kit.member("m29", protocol="json", address=f"{HOME}:1", resume=resume)
    assert json.loads(peer.lines()[0])["session"] == keys[-1]


def test_sessions_of_connected_members_are_kept_and_counted() -> None:
    kit = ChatKit(SMALL)
    here = [visit(kit, f"m{i}", 60) for i in range(6)]
    assert kit.hub.sessions.size > SMALL.address_session_bytes
    gone, key = visit(kit, "gone", 1)
    gone.transport.reset()
    kit.settle()
    assert not is_known(kit, key)
    assert all(is_known(kit, key) for _, key in here)


def test_one_address_cannot_make_the_sessions_of_others_be_forgotten() -> None:
    kit = ChatKit(SMALL)
    other, key = visit(kit, "other", 20, host="203.0.113.8")
    other.transport.reset()
    kit.settle()
    for i in range(200):
        peer, _ = visit(kit, f"m{i}", 20)
        peer.transport.reset()
        kit.settle()
    assert is_known(kit, key)


def test_a_session_that_goes_on_elsewhere_counts_there() -> None:
    kit = ChatKit(SMALL)
    _, key = visit(kit, "Mina", 20)
    resume = {"session": key, "epoch": "x", "seq": 1, "ts": 1}
    peer = kit.member("Mina", protocol="json", address="203.0.113.8:1", resume=resume)
    peer.transport.reset()
    kit.settle()
    for i in range(40):
        one, _ = visit(kit, f"m{i}", 20)
        one.transport.reset()
        kit.settle()
    assert is_known(kit, key)


def fill(kit: ChatKit, sessions: int, host: str = "203.0.113.{}") -> list[str]:
    """So many members that have come, said nothing, and lost their connections."""
    keys = []
    for i in range(sessions):
        peer, key = visit(kit, f"m{i}", 0, host=host.format(i))
        peer.transport.reset()
        kit.settle()
        keys.append(key)
    return keys


def test_address_session_bytes_at_the_limit() -> None:
    kit = ChatKit(SMALL)
    keys = fill(kit, SMALL.address_session_bytes // SESSION_COST, host=HOME)
    assert all(is_known(kit, key) for key in keys)


def test_address_session_bytes_one_beyond() -> None:
    kit = ChatKit(SMALL)
    keys = fill(kit, SMALL.address_session_bytes // SESSION_COST + 1, host=HOME)
    assert [is_known(kit, key) for key in keys] == [False] + [True] * (len(keys) - 1)


def test_address_session_bytes_do_not_bound_a_trusted_address() -> None:
    kit = ChatKit(SMALL)
    keys = fill(kit, SMALL.address_session_bytes // SESSION_COST + 1, host="127.0.0.1")
    assert all(is_known(kit, key) for key in keys)


@pytest.mark.parametrize("host", ["203.0.113.{}", "127.0.0.1"])
def test_session_bytes_at_the_limit(host: str) -> None:
    kit = ChatKit(SMALL)
    keys = fill(kit, SMALL.session_bytes // SESSION_COST, host=host)
    assert all(is_known(kit, key) for key in keys)


@pytest.mark.parametrize("host", ["203.0.113.{}", "127.0.0.1"])
def test_session_bytes_one_beyond(host: str) -> None:
    kit = ChatKit(SMALL)
    keys = fill(kit, SMALL.session_bytes // SESSION_COST + 1, host=host)
    assert [is_known(kit, key) for key in keys] == [False] + [True] * (len(keys) - 1)


def test_texts_count_until_they_have_their_place_and_are_not_kept_afterwards() -> None:
    kit = ChatKit(Limits(rate=0), broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    peer = kit.member("Mina", protocol="json", address=f"{HOME}:1")
    kit.broker.release()
    say(peer, 10, "x" * 5000)
    kit.settle()
    assert kit.hub.sessions.size > 50_000
    kit.broker.release()
    peer.transport.reset()
    kit.settle()
    assert kit.hub.sessions.size < 10_000


def test_what_is_refused_does_not_count() -> None:
    kit = ChatKit(Limits(rate=0), broker=LateBroker)
    assert isinstance(kit.broker, LateBroker)
    peer = kit.member("Mina", protocol="json", address=f"{HOME}:1")
    kit.broker.release()
    before = kit.hub.sessions.size
    kit.broker.failing = unavailable("no room")
    say(peer, 10, "x" * 5000)
    kit.settle()
    kit.broker.release()
    assert kit.hub.sessions.size == before


def test_ids_that_are_too_old_are_forgotten_as_new_ones_come() -> None:
    kit = ChatKit(Limits(rate=0, remember=10))
    peer = kit.member("Mina", protocol="json", address=f"{HOME}:1")
    say(peer, 100)
    kit.settle()
    full = kit.hub.sessions.size
    kit.wait(11)
    say(peer, 60, first=100)
    kit.settle()
    assert kit.hub.sessions.size < full


# Keys of another life of the server


class RememberingBroker(LateBroker):
    """One that knows a hundred ids of every session, and opens rooms late."""

    keeps = True

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock, opens_late=True)

    def sent(self, room: str, session: str) -> Pending[Mapping[str, Sent]]:
        return Pending.resolved({f"{i}": Sent(room, i + 1, i + 1) for i in range(100)})


def test_ids_from_a_store_are_not_kept_for_members_that_are_refused() -> None:
    kit = ChatKit(Limits(room_members=1), broker=RememberingBroker)
    assert isinstance(kit.broker, RememberingBroker)
    kit.member("first")
    kit.broker.release()
    for i in range(100):
        resume = {"session": f"{i // 2:016}", "epoch": "x", "seq": 1, "ts": 1}
        peer = kit.member(f"m{i}", protocol="json", address=f"{HOME}:1", resume=resume)
        assert json.loads(peer.lines()[0])["code"] == "room_full"
        assert kit.hub.sessions.size == 0
    assert not kit.hub.sessions._before


def test_ids_from_a_store_count_once_their_member_has_come_in() -> None:
    kit = ChatKit(Limits(), broker=RememberingBroker)
    assert isinstance(kit.broker, RememberingBroker)
    resume = {"session": "0" * 16, "epoch": "x", "seq": 1, "ts": 1}
    peer = kit.member("Mina", protocol="json", address=f"{HOME}:1", resume=resume)
    kit.broker.release()
    kit.settle()
    size = kit.hub.sessions.size
    assert size > SESSION_COST + 100 * 300
    kit.wait(11)
    assert kit.hub.sessions.size == size
    peer.send(frame(type="bye"))
    kit.settle()
    assert kit.hub.sessions.size == 0


def test_a_bounded_number_waits_for_rooms_to_be_opened_even_if_they_have_gone() -> None:
    kit = ChatKit(Limits(connections=20), broker=RememberingBroker)
    assert isinstance(kit.broker, RememberingBroker)
    for i in range(20):
        peer = kit.member(f"m{i}", f"room{i}", address=f"{HOME}:1")
        peer.connection.abort("connection_lost")
    refused = kit.member("late", "late", address=f"{HOME}:1")
    assert json.loads(refused.lines()[0])["code"] == "unavailable"
    assert kit.broker.pending == 20
    kit.broker.release()
    kit.member("again", "late", address=f"{HOME}:1")
    kit.broker.release()
    kit.settle()
    assert kit.hub.room("late").member("again") is not None  # type: ignore[union-attr]
