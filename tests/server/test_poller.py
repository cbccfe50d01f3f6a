"""The poller's rounds: who is served in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import anyio
import pytest

from chatapi.server.poller import Poller
from chatapi.server.selector import READ
from chatapi.testing import ChatKit


class Pollable:
    """Somebody with something to read, in every round."""

    def __init__(self, *, is_new: bool, comes_in: bool = True) -> None:
        self.is_new = is_new
        self.comes_in = comes_in
        self.served = 0

    def readable(self, now: float) -> None:
        self.served += 1
        if self.comes_in:
            self.is_new = False

    def writable(self, now: float) -> None:
        raise AssertionError

    def crashed(self) -> None:
        raise AssertionError


@pytest.fixture
def poller() -> Iterator[Poller]:
    poller = Poller(ChatKit().hub)
    yield poller
    poller.close()


def test_members_do_not_wait_for_thousands_of_newcomers(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    newcomers = [Pollable(is_new=True) for _ in range(1000)]
    member = Pollable(is_new=False)
    ready = [(owner, READ) for owner in [*newcomers, member]]
    monkeypatch.setattr(poller.selector, "select", lambda timeout: ready)
    rounds = 0
    while not all(newcomer.served for newcomer in newcomers):
        list(poller._round())
        rounds += 1
        assert member.served == rounds, "a member waits for newcomers"
    assert rounds > 2, "all newcomers came in by one round"


def test_a_client_that_sends_its_handshake_byte_by_byte_keeps_nobody_out(
    poller: Poller, monkeypatch: pytest.MonkeyPatch
) -> None:
    dribbling = [Pollable(is_new=True, comes_in=False) for _ in range(1000)]
    newcomer = Pollable(is_new=True)
    ready = [(owner, READ) for owner in [*dribbling, newcomer]]
    monkeypatch.setattr(poller.selector, "select", lambda timeout: ready)
    for _ in range(5):
        list(poller._round())
    assert newcomer.served


@pytest.mark.anyio
async def test_an_error_in_a_round_ends_the_run(poller: Poller, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bool:
        raise ZeroDivisionError

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            with pytest.raises(ExceptionGroup) as raised:
                await poller.run()
            assert raised.group_contains(ZeroDivisionError)

        tasks.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        monkeypatch.setattr(poller._hub.broker, "collect", fail)
        poller.ring()


@pytest.mark.anyio
async def test_what_a_turn_leaves_is_done_in_the_next_one() -> None:
    done = 0

    def run(now: float) -> None:
        nonlocal done
        done += 1
        kit.clock.turn(1)  # longer than a turn

    kit = ChatKit()
    poller = Poller(kit.hub)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run)
        await anyio.wait_all_tasks_blocked()
        for _ in range(5):
            kit.hub._runnable[Runnable(run)] = None
        poller.ring()
        with anyio.fail_after(10):
            await poller.until(lambda: done == 5)
        tasks.cancel_scope.cancel()
    poller.close()


@pytest.mark.anyio
async def test_other_tasks_of_the_program_get_a_turn_after_each_turn_of_the_chat() -> None:
    turns: list[str] = []

    def run(now: float) -> None:
        turns.append("chat")
        kit.clock.turn(1)  # longer than a turn may take

    async def neighbour() -> None:
        while True:
            turns.append("other task")
            await anyio.lowlevel.checkpoint()

    kit = ChatKit()
    poller = Poller(kit.hub)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller.run)
        await anyio.wait_all_tasks_blocked()
        for _ in range(5):
            kit.hub._runnable[Runnable(run)] = None
        tasks.start_soon(neighbour)
        poller.ring()
        with anyio.fail_after(10):
            await poller.until(lambda: turns.count("chat") == 5)
        tasks.cancel_scope.cancel()
    poller.close()
    first, last = turns.index("chat"), len(turns) - turns[::-1].index("chat")
    assert turns[first:last].count("other task") >= 3, turns


class Runnable:
    def __init__(self, run: Callable[[float], None]) -> None:
        self.run = run
