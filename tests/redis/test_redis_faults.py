"""Two servers over one Redis, with faults of the servers, of Redis and of the network while members talk.

Every acknowledged message is kept once, and all members see it in one order; `Chaos.talk` checks that.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from typing import Any

import pytest
from executables import SERVER
from redis_chaos import KINDS, LEASE, PATIENCE, Chaos
from redis_nodes import program, two_nodes
from redis_servers import RedisServer, needs_redis

from chatapi import Refused
from chatapi.client import protocol as client_protocol
from chatapi.client.protocol import ClientProtocol
from chatapi.client.requests import PendingRequests

pytestmark = [pytest.mark.anyio, pytest.mark.slow, needs_redis]


@pytest.fixture
def loop(request: pytest.FixtureRequest) -> str:
    """The event loop of the servers: that of their clients."""
    return str(request.node.callspec.id.split("-")[0])


async def test_nothing_is_lost_or_doubled_when_redis_fails_under_load(redis: RedisServer, loop: str) -> None:
    async with two_nodes(redis, *program(loop, LEASE, PATIENCE)) as nodes, Chaos(redis, nodes).talk() as chaos:
        await chaos.go_on()
        async with chaos.redis_killed():
            pass
        await chaos.go_on()
        async with chaos.redis_paused():
            await chaos.are_told("unavailable")
        await chaos.are_told("available")
        await chaos.go_on()
        async with chaos.redis_killed():
            await chaos.are_told("unavailable")
        await chaos.are_told("available")


async def test_nothing_is_lost_or_doubled_when_a_node_fails_under_load(redis: RedisServer, loop: str) -> None:
    async with two_nodes(redis, *program(loop, LEASE, PATIENCE)) as nodes, Chaos(redis, nodes).talk() as chaos:
        one, other = nodes
        await chaos.go_on()
        async with chaos.killed(one):
            await chaos.go_on(chaos.members[other])
        await chaos.go_on()
        async with chaos.paused(other):
            await chaos.go_on(chaos.members[one])
        await chaos.go_on()
        async with chaos.paused(other):
            await chaos.have_left(other)
            await chaos.go_on(chaos.members[one])
        await chaos.go_on()
        async with chaos.moved(one):
            await chaos.go_on()
        async with chaos.paused(one), chaos.moved(one):
            await chaos.go_on()


async def test_nothing_is_lost_or_doubled_when_the_network_fails_under_load(redis: RedisServer, loop: str) -> None:
    async with two_nodes(redis, *program(loop, LEASE, PATIENCE)) as nodes, Chaos(redis, nodes).talk() as chaos:
        one, other = nodes
        await chaos.go_on()
        one.line.cut_all()
        await chaos.go_on()
        for fault in (one.line.cut(), one.line.frozen("down")):  # requests that arrive, and answers that do not
            async with fault:
                await chaos.are_told("unavailable", chaos.members[one])
                await chaos.go_on(chaos.members[other])
            await chaos.are_told("available", chaos.members[one])
            await chaos.go_on()
        async with one.line.slow(0.02), other.line.slow(0.05):
            await chaos.go_on()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_servers_are_upgraded_one_after_the_other_without_losing_a_line(redis: RedisServer) -> None:
    server = (sys.executable, SERVER, "-rate", "0")
    async with two_nodes(redis, *server) as nodes, Chaos(redis, nodes).talk() as chaos:
        one, other = nodes
        await chaos.go_on()
        for node in (one, other):
            async with chaos.upgraded(node):
                await chaos.go_on(chaos.members[other if node is one else one])
        await chaos.go_on()
    for member in chaos.everybody:
        assert member.losses == Counter({"draining": 1})
        assert member.recoveries == 1


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The numbers of messages that servers refused, and of messages that they had already."""
    found: Counter[str] = Counter()

    def not_kept(self: PendingRequests, key: object, refusal: Refused) -> None:
        found["refused, and sent again"] += 1
        refuse(self, key, refusal)

    def ack(self: ClientProtocol, frame: dict[str, Any]) -> None:
        found["acknowledged as known"] += bool(frame.get("duplicate"))
        acknowledge(self, frame)

    refuse, acknowledge = PendingRequests.on_unavailable, ClientProtocol._on_ack
    monkeypatch.setattr(PendingRequests, "on_unavailable", not_kept)
    monkeypatch.setitem(client_protocol._HANDLERS, "ack", ack)
    return found


@pytest.mark.long
async def test_two_hundred_faults(
    redis: RedisServer, loop: str, answers: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(text, flush=True)  # noqa: T201

    start = time.monotonic()
    async with two_nodes(redis, *program(loop, LEASE, PATIENCE)) as nodes, Chaos(redis, nodes).talk() as chaos:
        for member in chaos.everybody:
            member.pause = 0.05
        async for number in chaos.random_faults(random.Random(6), 200):
            tell(f"{loop}: {number} faults, {time.monotonic() - start:.0f} s")
    tell(f"\n{loop}, {chaos.faults.total()} faults in {time.monotonic() - start:.0f} s")
    for figures in (chaos.faults, chaos.figures(), answers):
        tell("\n".join(f"{number:>9,} {what}" for what, number in figures.items()))
    assert set(chaos.faults) == set(KINDS)
