"""The contract of brokers over one Redis and over a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count

import anyio
import pytest
from redis_servers import RedisCluster, RedisServer, needs_redis

from chatapi.brokers.redis import shard
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.core.broker import Broker
from chatapi.testing import BrokerContract, VirtualClock

pytestmark = [pytest.mark.anyio, needs_redis]

_numbers = count(1)


class OverRedis(BrokerContract):
    """Every broker has a user of its own in Redis, which can be shut out, and kept from writing."""

    keeps = True
    shares = True
    own_clock = True

    def place(self, url: str, servers: Sequence[RedisServer]) -> Iterator[None]:
        self.url, self.servers, self.prefix = url, servers, f"contract{next(_numbers)}"
        self.users: dict[Broker, str] = {}
        yield
        for user in self.users.values():
            self.tell("ACL", "DELUSER", user)

    def tell(self, *command: str) -> None:
        for server in self.servers:
            server.cli(*command)

    def broker(self, clock: VirtualClock) -> RedisBroker:
        user = f"user{next(_numbers)}"
        self.tell("ACL", "SETUSER", user, "on", ">secret", "~*", "&*", "+@all")
        broker = RedisBroker(self.url.replace("://", f"://{user}:secret@"), prefix=self.prefix, lease=self.lease)
        self.users[broker] = user
        return broker

    async def cut_off(self, broker: Broker) -> None:
        self.tell("ACL", "SETUSER", self.users[broker], "off")
        self.tell("CLIENT", "KILL", "USER", self.users[broker])

    async def reconnect(self, broker: Broker) -> None:
        self.tell("ACL", "SETUSER", self.users[broker], "on")

    async def fail(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        self.tell("ACL", "SETUSER", self.users[broker], "-@write")
        for server in broker._shards:
            server._options = replace(server._options, patience=0)  # as if it had been so for that long

    async def heal(self, broker: Broker) -> None:
        assert isinstance(broker, RedisBroker)
        self.tell("ACL", "SETUSER", self.users[broker], "+@write")
        for server in broker._shards:
            server._options = broker._options
        while any(server.trouble for server in broker._shards):
            broker._nodes.renew_lease()  # which is how it notices, a second later
            broker.collect()
            await anyio.sleep(0.001)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that broke are made again without pauses that spare a server."""
    monkeypatch.setattr(shard, "_BACKOFF_CAP", 0.02)


@pytest.mark.usefixtures("impatient")
class OverOneRedis(OverRedis):
    @pytest.fixture(autouse=True)
    def _place(self, shared_redis: RedisServer) -> Iterator[None]:
        yield from self.place(shared_redis.url, [shared_redis])


@pytest.mark.slow
class TestRedisAtLength(OverOneRedis):
    """The whole suite."""


class TestRedis(OverOneRedis):
    """The suite without the tests that take longest."""

    test_a_node_that_is_cut_off_for_long_claims_its_names_again = None
    test_a_node_that_opens_a_room_later_goes_on_without_a_gap = None
    test_entries_on_their_way_at_the_end_are_settled = None
    test_entries_submitted_during_the_end_are_settled = None
    test_every_page_can_be_read = None
    test_history_is_paged_through = None
    test_it_runs_again = None
    test_members_of_a_living_node_stay = None
    test_members_of_a_node_that_dies_leave = None
    test_questions_at_the_end_are_answered = None
    test_resume_at_every_position_after_a_restart = None
    test_rooms_are_counted_from_any_node = None


@pytest.mark.slow
@pytest.mark.usefixtures("impatient")
class TestRedisCluster(OverRedis):
    @pytest.fixture(autouse=True)
    def _place(self, shared_cluster: RedisCluster) -> Iterator[None]:
        yield from self.place(shared_cluster.url, shared_cluster.nodes)
