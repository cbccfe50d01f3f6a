"""What all connections of one address may do together: however many they are, and however often they come back."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_network
from typing import Any

import pytest
from executables import Server

from chatapi import AddressError, ChatAPI, Limits
from chatapi.clock import SystemClock
from chatapi.core.origins import LOOPBACK, Origins, networks
from chatapi.core.timers import Timers
from chatapi.testing import ChatKit, Peer

HOME = "203.0.113.7"
LIMITS = Limits(rate=10, burst=10, address_rate=20, address_burst=30)


def crowd(kit: ChatKit, number: int, host: str = HOME) -> list[Peer]:
    """Members that come from one address."""
    return [kit.member(f"m{i}", "hall", address=f"{host}:{1000 + i}") for i in range(number)]


def say(peer: Peer, lines: int) -> None:
    peer.send("x\n" * lines)


def kept(kit: ChatKit, room: str = "hall") -> int:
    place = kit.hub.room(room)
    return 0 if place is None else place.seq


def kept_after(kit: ChatKit, seconds: float) -> int:
    before = kept(kit)
    kit.wait(seconds)
    return kept(kit) - before


# What an address is


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("[::ffff:203.0.113.7]", "203.0.113.7"),
        ("[2001:db8:1:2:3:4:5:6]", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.2", "127.0.0.2"),
        ("::1", "::1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("2001:db8:ffff::5", "2001:db8:ffff::5"),
        ("/run/chat.sock", "/run/chat.sock"),
    ],
)
def test_each_host_is_counted_under_one_address(host: str, key: str) -> None:
    origins = Origins(Limits(), SystemClock(), Timers(), [*LOOPBACK, "2001:db8:ffff::5"])
    assert origins.key(host) == (key, key in ("127.0.0.2", "127.0.0.1", "::1", "2001:db8:ffff::5"))


def test_trusted_addresses_are_addresses_or_networks() -> None:
    assert networks([" 10.0.0.0/8 ", "::1"]) == (ip_network("10.0.0.0/8"), ip_network("::1/128"))
    for wrong in ("localhost", "10.0.0.1/8", "", "10.0.0.0/8,::1"):
        with pytest.raises(AddressError, match="a trusted address is an IP address, or a network"):
            ChatAPI(trusted=[wrong])


@pytest.mark.parametrize(
    "given", [["-trusted=127.0.0.5, 10.0.0.0/8"], pytest.param(["-trusted", ""], marks=pytest.mark.slow)]
)
def test_the_server_takes_trusted_addresses_from_its_command_line(given: list[str]) -> None:
    limits = ["-address-rate", "0.001", "-address-burst", "3"]
    with Server(*limits, *given) as server:
        free = server.member("Free", "hall", source="127.0.0.5")
        bound = server.member("Bound", "hall", source="127.0.0.6")
        free.send("1\n2\n3\n4\n5\n")
        bound.send("a\nb\nc\nd\ne\n")
        assert bound.lines(3) == ["Free:1", "Free:2", "Free:3"]
        assert free.lines(3) == ["Bound:a", "Bound:b", "Bound:c"]
        if given[-1]:
            assert bound.lines(2) == ["Free:4", "Free:5"]


# Lines


def test_address_rate_at_the_limit() -> None:
    kit = ChatKit(LIMITS)
    for peer in crowd(kit, 2):  # whose own rates come to no more
        say(peer, 300)
    kit.settle()
    kit.wait(2)
    assert 195 <= kept_after(kit, 10) <= 205


def test_address_rate_one_beyond() -> None:
    kit = ChatKit(LIMITS)
    for peer in crowd(kit, 8):
        say(peer, 300)
    kit.settle()
    kit.wait(2)
    assert 195 <= kept_after(kit, 10) <= 205


def test_address_burst_at_the_limit() -> None:
    kit = ChatKit(LIMITS)
    for peer in crowd(kit, 3):
        say(peer, 10)
    kit.settle()
    assert kept(kit) == 30


def test_address_burst_one_beyond() -> None:
    kit = ChatKit(LIMITS)
    peers = crowd(kit, 4)
    for peer in peers:
        say(peer, 10)
    kit.settle()
    assert kept(kit) == 30
    assert not all(peer.transport.reading for peer in peers)
    kit.wait(1)
    assert kept(kit) == 40, "what waits is not lost"


@pytest.mark.parametrize("host", [HOME, "[2001:db8:1:2::{:x}]"])
def test_a_member_that_connects_again_and_again_sends_no_faster(host: str) -> None:
    kit = ChatKit(LIMITS)
    kit.member("witness", "hall")
    for i in range(200):
        peer = kit.member(f"m{i}", "hall", address=f"{host.format(i)}:1000")
        say(peer, 10)
        kit.wait(0.1)
        peer.connection.abort("connection_lost")
    assert 300 < kept(kit) <= 30 + 20 * 20


def line(i: int) -> str:
    return json.dumps({"type": "message", "text": f"{i}"}) + "\n"


@pytest.mark.parametrize("fields", [{}, {"protocol": "json"}, {"telnet": True}], ids=["text", "json", "telnet"])
def test_every_protocol_is_counted_under_the_address(fields: dict[str, Any]) -> None:
    kit = ChatKit(LIMITS, lobby="hall")
    for i in range(6):
        if "telnet" in fields:
            peer = kit.connect(telnet=True, address=f"{HOME}:{i}")
            peer.send(f"m{i}\n")
            kit.settle()
        else:
            peer = kit.member(f"m{i}", "hall", address=f"{HOME}:{i}", **fields)
        peer.send("".join(line(n) if "protocol" in fields else "x\n" for n in range(20)))
        kit.settle()
    assert kept(kit) == 30
    kit.wait(10)
    assert kept(kit) == 120


def test_commands_count_under_the_address() -> None:
    kit = ChatKit(LIMITS)
    for peer in crowd(kit, 6):
        peer.send("/list\n" * 10)
    kit.settle()
    assert sum(peer.received().count("in hall") for peer in kit.peers) == 30


def test_members_of_one_address_have_their_turns_alike() -> None:
    kit = ChatKit(LIMITS)
    peers = crowd(kit, 8)
    for peer in peers:
        say(peer, 1000)
    kit.settle()
    kit.wait(3)
    room = kit.hub.room("hall")
    assert room is not None
    since = room.seq
    kit.wait(40)
    shares = Counter(message.name for message in room.history(room.seq - since))
    assert len(shares) == 8
    assert max(shares.values()) - min(shares.values()) <= 3, shares


def test_a_member_that_leaves_gives_back_its_promised_lines() -> None:
    kit = ChatKit(LIMITS)
    first, *others = crowd(kit, 60)
    for peer in (first, *others):
        say(peer, 20)
    kit.settle()
    for peer in others:
        peer.connection.abort("connection_lost")
    kit.wait(2.5)
    assert first.transport.reading


def test_other_addresses_are_not_held_back() -> None:
    kit = ChatKit(LIMITS)
    for peer in crowd(kit, 8):
        say(peer, 100)
    kit.settle()
    before = kept(kit)
    say(kit.member("other", "hall", address="203.0.113.8:1"), 10)
    kit.settle()
    assert kept(kit) == before + 10


@pytest.mark.parametrize(
    ("limits", "host", "trusted"),
    [
        (LIMITS, "127.0.0.1", LOOPBACK),
        (LIMITS, "[::1]", LOOPBACK),
        (LIMITS, HOME, ("203.0.113.0/24",)),
        (LIMITS.model_copy(update={"address_rate": 0}), HOME, LOOPBACK),
        (LIMITS.model_copy(update={"rate": 0}), HOME, LOOPBACK),
    ],
    ids=["loopback", "loopback6", "trusted", "no address_rate", "no rate"],
)
def test_a_trusted_address_and_a_rate_of_0_have_no_bound(limits: Limits, host: str, trusted: tuple[str, ...]) -> None:
    kit = ChatKit(limits, trusted=trusted)
    for peer in crowd(kit, 8, host):
        say(peer, 10)
    kit.settle()
    assert kept(kit) == 80


# Refusals


def make_faults(kit: ChatKit, number: int) -> int:
    """So many refused nicknames, ten for each connection; returns how many connections were ended for that."""
    before = kit.hub.refusals["flood"]
    while number:
        peer = kit.connect(telnet=True, address=f"{HOME}:1")
        some = min(10, number)
        peer.send(("x" * 40 + "\n") * some)
        kit.settle()
        peer.transport.reset()
        kit.settle()
        number -= some
    return kit.hub.refusals["flood"] - before


def test_address_flood_at_the_limit() -> None:
    assert make_faults(ChatKit(Limits(address_flood=100)), 100) == 0


def test_address_flood_one_beyond() -> None:
    kit = ChatKit(Limits(address_flood=100))
    assert make_faults(kit, 101) == 1
    kit.wait(0.5)
    assert make_faults(kit, 10) == 1
    kit.wait(11)
    assert make_faults(kit, 100) == 0, "they are forgotten, ten a second"


def test_refused_commands_of_all_connections_of_an_address_are_a_flood() -> None:
    kit = ChatKit(Limits(address_flood=100))
    for i in range(11):
        peer = kit.member(f"m{i}", address=f"{HOME}:{i}")
        peer.send("/nonsense\n" * 10)
        kit.settle()
        peer.end()
        kit.settle()
    assert kit.hub.disconnects["flood"] == 1


# What is kept about addresses


def test_an_address_is_forgotten_once_nobody_comes_from_it_and_nothing_counts_any_more() -> None:
    kit = ChatKit(LIMITS)
    peers = crowd(kit, 3)
    assert len(kit.hub.origins) == 1
    for peer in peers:
        say(peer, 10)
        kit.settle()
        peer.connection.abort("connection_lost")
    assert len(kit.hub.origins) == 1, "it could connect again"
    kit.wait(1.4)
    assert len(kit.hub.origins) == 1
    kit.wait(0.3)
    assert len(kit.hub.origins) == 0
    [peer] = crowd(kit, 1)
    peer.connection.abort("connection_lost")
    assert len(kit.hub.origins) == 0, "it has done nothing"


def test_a_bounded_number_of_addresses_is_remembered() -> None:
    kit = ChatKit(Limits(connections=50, address_rate=0.001))
    for i in range(300):
        peer = kit.member("Mina", "hall", address=f"203.0.{i // 250}.{i % 250}:1")
        say(peer, 1)
        kit.settle()
        peer.connection.abort("connection_lost")
    assert len(kit.hub.origins) == 50


def test_names_and_addresses_of_slow_members_are_bounded_in_number() -> None:
    kit = ChatKit(Limits(connections=20, rate=0, slow_penalty_seconds=3600))
    for i in range(100):
        peer = kit.member(f"m{i}", address=f"203.0.113.{i}:1")
        client = kit.hub.room("dev").member(f"m{i}")  # type: ignore[union-attr]
        assert client is not None
        client.room.evict(client)  # type: ignore[union-attr]
        peer.connection.abort("connection_lost")
        assert kit.hub.slow_penalties.has(client, kit.clock.monotonic())
    assert len(kit.hub.slow_penalties) == 40


@pytest.mark.parametrize(
    ("slow", "again", "forgiven"),
    [
        ("203.0.113.7", "203.0.113.7", False),
        ("203.0.113.7", "203.0.113.8", True),
        ("[2001:db8:1:2::7]", "[2001:db8:1:2:ffff::8]", False),
        ("[2001:db8:1:2::7]", "[2001:db8:1:3::7]", True),
        ("127.0.0.1", "127.0.0.1", True),
    ],
)
def test_a_member_that_was_slow_is_known_by_the_address_that_counts(slow: str, again: str, forgiven: bool) -> None:
    kit = ChatKit()
    first = kit.member("slow", address=f"{slow}:1").connection.client
    assert first is not None
    assert first.room is not None
    first.room.evict(first)
    second = kit.member("other", address=f"{again}:2").connection.client
    assert second is not None
    assert kit.hub.slow_penalties.has(second, kit.clock.monotonic()) is not forgiven
    assert kit.hub.slow_penalties.has(first, kit.clock.monotonic()), "a name counts wherever it comes from"
