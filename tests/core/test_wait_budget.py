"""A room waits for slow members for a bounded time in any minute, whatever they do and however many they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatapi import Limits
from chatapi.limits import TICK
from chatapi.testing import ChatKit, Peer

LIMITS = Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, room_wait=12)
LINES = "x" * 100 + "\n"


class Watch:
    """A room in which somebody talks without end, and a note of each tick in which the room did not let it."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.kit = ChatKit(limits)
        self.talker, self.reader = self.kit.member("talker"), self.kit.member("reader")
        self.paused: list[bool] = []
        self.heard = 0

    def run(self, seconds: float, attack: Callable[[int], None] = lambda tick: None) -> None:
        for tick in range(round(seconds / TICK)):
            for _ in range(20):
                if self.talker.transport.reading:
                    self.talker.send(LINES)
                    self.kit.settle()
            attack(tick)
            self.kit.settle()
            self.paused.append(not self.talker.transport.reading)
            self.kit.wait(TICK)
            self.heard += len(self.reader.lines())

    def most_in(self, seconds: float) -> float:
        """The longest that the room paused in any window of so many seconds."""
        ticks = round(seconds / TICK)
        return max(sum(self.paused[at : at + ticks]) for at in range(len(self.paused))) * TICK


def drains_just_in_time(watch: Watch) -> Callable[[int], None]:
    """A reader that takes nothing until it is nearly disconnected, and then all that there is."""
    slow = watch.kit.member("slow", capacity=100, address="10.9.9.9:1")

    def attack(tick: int) -> None:
        if tick % 45 == 44:
            while slow.transport.take():
                watch.kit.settle()

    return attack


def drains_a_little_at_a_time(watch: Watch) -> Callable[[int], None]:
    """A reader that makes many short pauses: in each tick it takes just enough to be waited for again soon."""
    slow = watch.kit.member("slow", capacity=100, address="10.9.9.9:1")

    def attack(tick: int) -> None:
        if tick % 3 == 2:
            while slow.transport.take():
                watch.kit.settle()

    return attack


def comes_with_a_fresh_name_and_address(watch: Watch) -> Callable[[int], None]:
    """A reader that takes nothing, and another one as soon as the last one was disconnected."""

    def attack(tick: int) -> None:
        if tick % 50 == 0:
            watch.kit.member(f"slow{tick}", capacity=0, address=f"10.9.{tick // 50}.1:1")

    return attack


def come_ten_at_once(watch: Watch) -> Callable[[int], None]:
    """Ten such readers, each half a second behind the last one, again and again."""

    def attack(tick: int) -> None:
        if tick % 5 == 0:
            watch.kit.member(f"slow{tick}", capacity=0, address=f"10.9.{tick // 5}.1:1")

    return attack


@pytest.mark.parametrize(
    "attacker",
    [
        drains_just_in_time,
        pytest.param(drains_a_little_at_a_time, marks=pytest.mark.slow),
        pytest.param(comes_with_a_fresh_name_and_address, marks=pytest.mark.slow),
        come_ten_at_once,
    ],
)
def test_a_room_waits_no_longer_than_its_budget_in_any_minute(
    attacker: Callable[[Watch], Callable[[int], None]],
) -> None:
    watch = Watch()
    watch.run(200, attacker(watch))
    assert 0 < watch.most_in(60) <= LIMITS.room_wait
    assert watch.most_in(200) <= LIMITS.room_wait / 2 * (1 + 200 / 60)
    assert watch.kit.hub.room("dev").member("talker") is not None  # type: ignore[union-attr]
    assert watch.heard > 1000


def test_one_honest_slow_member_has_its_grace() -> None:
    watch = Watch()
    slow = watch.kit.member("slow", capacity=0, address="10.9.9.9:1")
    watch.run(4.8)
    assert slow.connection.client is not None
    assert slow.connection.client.room is not None
    assert watch.paused[10:] == [True] * 38
    slow.transport.capacity = 1 << 30
    watch.run(1)
    assert not any(watch.paused[-9:])
    assert not watch.kit.hub.disconnects


def test_the_budget_is_there_again_after_a_minute() -> None:
    watch = Watch()
    for host in (1, 2):
        watch.kit.member(f"slow{host}", capacity=0, address=f"10.9.{host}.1:1")
        watch.run(60)
        assert sum(watch.paused[-600:]) * TICK > 4.5


def test_time_in_which_the_server_stood_still_uses_nothing_of_the_budget() -> None:
    watch = Watch()
    quick = watch.kit.member("quick", capacity=0, address="10.9.1.1:1")
    watch.kit.clock.turn(100)
    watch.kit.hub.timers.postpone(100)
    watch.run(2)
    assert any(watch.paused)
    quick.transport.capacity = 1 << 30  # it catches up
    watch.run(20)
    watch.kit.member("slow", capacity=0, address="10.9.2.1:1")
    before = len(watch.paused)
    watch.run(20)
    assert sum(watch.paused[before:]) * TICK > 4.5


def test_while_nobody_is_waited_for_a_laggard_loses_its_place_and_another_one_its_grace() -> None:
    watch = Watch()
    watch.run(20, comes_with_a_fresh_name_and_address(watch))
    assert watch.kit.hub.disconnects["slow_consumer"] >= 3
    lines = [peer for peer in watch.kit.peers if peer not in (watch.talker, watch.reader)]
    assert sum(ended(peer) for peer in lines) == watch.kit.hub.disconnects["slow_consumer"]


def ended(peer: Peer) -> bool:
    return peer.connection.client is None or peer.connection.client.room is None


def pause(limits: Limits) -> float:
    """How long a room with these limits waits for one member that takes nothing."""
    watch = Watch(limits)
    watch.kit.member("slow", capacity=0, address="10.9.9.9:1")
    watch.run(30)
    return sum(watch.paused) * TICK


def test_room_wait_at_the_limit() -> None:
    assert pause(Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, room_wait=0)) == 0
    assert 4.5 < pause(Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, room_wait=12)) <= 5.2


def test_room_wait_one_beyond() -> None:
    assert 0 < pause(Limits(rate=0, log_entries=64, log_bytes=65536, grace=5, room_wait=2)) <= 1
    assert pause(Limits(rate=0, log_entries=64, log_bytes=65536, grace=10, room_wait=120)) > 9
