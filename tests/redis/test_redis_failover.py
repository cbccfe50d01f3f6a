"""Another Redis takes the place of one that died: members stay connected, and no acknowledged message is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import anyio
import anyio.to_thread
import pytest
from executables import eventually
from redis_members import Member, present
from redis_nodes import Line, served, stopped
from redis_servers import RedisCluster, RedisSentinel, RedisServer, needs_redis
from witnesses import history, until

import chatapi
from chatapi import Address, Refused

pytestmark = [pytest.mark.anyio, needs_redis]


def undisturbed(members: Sequence[Member]) -> None:
    """All of them have heard the same, without a hole, and never lost their connections."""
    for member in members:
        assert [message.seq for message in member.heard] == list(range(1, len(member.heard) + 1))
        assert member.heard == members[0].heard
        assert (member.losses, member.gaps) == (Counter(), [])


async def test_a_sentinel_puts_the_replica_in_the_place_of_a_primary_that_died() -> None:
    with RedisSentinel() as redis:
        async with served(redis.url, redis.url, patience=0.5) as (a, b), present("dev", Al=a, Bo=b) as members:
            for member in members:
                await member.say(f"before {member.name}")
            await anyio.to_thread.run_sync(redis.replica.catch_up, redis.primary)
            redis.primary.kill()
            for member in members:
                await member.say(f"after {member.name}")
            assert redis.current() is redis.replica
            for member in members:
                await member.has(4)
                await member.sees({"Al", "Bo"})
            undisturbed(members)


@contextmanager
def replicated() -> Iterator[tuple[RedisServer, RedisServer]]:
    """A primary and a replica that follows it."""
    with RedisServer() as primary, RedisServer(replica_of=primary) as replica:

        def heard() -> bool:
            primary.cli("SET", "something", "to follow")
            return ",offset=0," not in primary.info("replication").get("slave0", ",offset=0,")

        eventually(heard, "the replica does not say how far it is")
        yield primary, replica


@pytest.mark.slow
async def test_members_are_told_of_messages_that_a_failover_lost() -> None:
    """The replica has not heard of the newest message when the primary dies."""
    with replicated() as (primary, replica):
        line = Line(Address("127.0.0.1", primary.port))
        async with (
            line.open(),
            served(f"redis://{line.address}") as [here],
            present("dev", Al=here, Bo=here) as [al, bo],
        ):
            await al.say("kept")
            await anyio.to_thread.run_sync(replica.catch_up, primary)
            replica.cli("REPLICAOF", "NO", "ONE")
            await al.say("lost")
            await bo.has(2)
            primary.kill()
            line.move(Address("127.0.0.1", replica.port))
            for member in (al, bo):
                await member.has_a_gap("diverged", 2)
            await bo.say("new")
            assert [message.text for message in await history(str(here), "dev")] == ["kept", "new"]


@pytest.mark.slow
async def test_nothing_is_acknowledged_before_as_many_replicas_have_it_as_were_asked_for() -> None:
    with replicated() as (primary, replica):
        line = Line(Address("127.0.0.1", primary.port))
        async with (
            line.open(),
            served(*[f"redis://{line.address}"] * 2, patience=0.3, replicas=1) as (a, b),
            present("dev", Al=a, Bo=b) as members,
        ):
            [al, bo] = members
            await al.say("one")
            async with anyio.create_task_group() as tasks:
                with stopped(replica.pid):
                    tasks.start_soon(al.say, "two")
                    await until(lambda: al.notice == "unavailable", lambda: "nobody is told that no replica follows")
                    assert list(al.acknowledged) == ["one"]
            assert al.acknowledged["two"].seq == 2
            await bo.has(2)
            primary.kill()
            replica.cli("REPLICAOF", "NO", "ONE")
            line.move(Address("127.0.0.1", replica.port))
            async with served(replica.url) as [another]:
                assert await history(str(another), "dev") == bo.heard
            primary.start()
            primary.cli("REPLICAOF", "127.0.0.1", replica.port)
            await al.say("three")
            await bo.has(3)
            undisturbed(members)


@pytest.mark.slow
async def test_members_stay_while_no_replica_follows() -> None:
    with replicated() as (primary, replica):
        async with (
            served(*[primary.url] * 2, patience=0.3, lease=3, replicas=1) as (a, b),
            present("dev", Al=a, Bo=b) as members,
        ):
            [al, bo] = members
            async with anyio.create_task_group() as tasks:
                with stopped(replica.pid):
                    tasks.start_soon(al.say, "one")
                    await until(lambda: al.notice == "unavailable", lambda: "nobody is told that no replica follows")
                    with pytest.raises(Refused, match="unavailable"):
                        async with chatapi.connect(a, name="Cy", room="dev"):
                            pass
                    later = leases(primary)[-1] + 500
                    await until(lambda: leases(primary)[0] > later, lambda: "the leases are not renewed")
            await bo.has(1)
            await bo.sees({"Al", "Bo"})
            undisturbed(members)
            assert bo.left == Counter()


def leases(redis: RedisServer) -> list[float]:
    """Return the time at which each node's lease ends, in milliseconds, the first to end first."""
    return [float(until) for until in redis.cli("ZRANGE", "machat:{nodes}", 0, -1, "WITHSCORES")[1::2]]


@pytest.mark.slow
async def test_a_replica_takes_over_in_a_cluster_while_other_rooms_go_on() -> None:
    with RedisCluster(replicas=1) as redis:
        primary = redis.primary("{dev}")
        elsewhere = next(room for room in "abcdefgh" if redis.primary(f"{{{room}}}") is not primary)
        [replica] = [node for node in redis.nodes if node.info("replication").get("master_port") == str(primary.port)]
        async with (
            served(redis.url, redis.url, patience=0.5) as (a, b),
            present("dev", Al=a, Bo=b) as members,
            present(elsewhere, Cy=a, Di=b) as others,
        ):
            for member in (*members, *others):
                await member.say(f"before {member.name}")
            await anyio.to_thread.run_sync(replica.catch_up, primary)
            primary.kill()
            for member in others:
                await member.say(f"meanwhile {member.name}")
            assert {member.notice for member in others} == {"available"}
            for member in members:
                await member.say(f"after {member.name}")
            for member in (*members, *others):
                await member.has(4)
            for member in members:
                await member.sees({"Al", "Bo"})
            undisturbed(members)
            undisturbed(others)
            assert redis.primary("{dev}", seen_by=replica) is replica
