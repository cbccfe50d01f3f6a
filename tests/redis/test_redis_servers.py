"""The Redis servers that other tests start: they start, die, pause and fail over as asked, and end with the tests."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import sys
from pathlib import Path
from threading import Thread

import pytest
from executables import ROOT, Program, environment, eventually
from redis_servers import RedisCluster, RedisSentinel, RedisServer, needs_redis
from resp import RedisError

pytestmark = needs_redis


def is_refused(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_servers_are_apart_and_gone_afterwards() -> None:
    with RedisServer() as one, RedisServer() as other:
        one.cli("SET", "key", b"\x00\r\n\xff")
        assert one.cli("MGET", "key", "none") == [b"\x00\r\n\xff", None]
        assert other.cli("DBSIZE") == 0
        assert one.url == f"redis://127.0.0.1:{one.port}/0"
        [folder] = one.cli("CONFIG", "GET", "dir")[1:]
        with pytest.raises(RedisError, match="WRONGTYPE"):
            one.cli("LPUSH", "key", 1)
    assert is_refused(one.port)
    assert not Path(folder.decode()).exists()


@pytest.mark.parametrize(("keeps", "kept"), [("always", b"value"), ("", None)])
def test_after_a_sigkill_it_has_the_data_on_its_disk(keeps: str, kept: bytes | None) -> None:
    with RedisServer(appendfsync=keeps) as server:
        port, pid = server.port, server.pid
        server.cli("SET", "key", "value")
        server.kill()
        assert is_refused(port)
        server.restart()
        assert (server.port, server.cli("GET", "key")) == (port, kept)
        assert server.pid != pid


def test_stopped_in_good_order_it_keeps_everything() -> None:
    with RedisServer(appendfsync="everysec") as server:
        server.cli("SET", "key", "value")
        server.stop()
        assert is_refused(server.port)
        server.start()
        assert server.cli("GET", "key") == b"value"


def test_its_port_stays_reserved_while_it_is_down() -> None:
    with RedisServer() as server:
        server.kill()
        with socket.socket() as other, pytest.raises(OSError, match=re.escape(os.strerror(errno.EADDRINUSE))):
            other.bind(("127.0.0.1", server.port))


def test_paused_it_does_not_answer_and_resumed_it_does() -> None:
    with RedisServer() as server:
        server.pause()
        with pytest.raises(TimeoutError):
            server.cli("PING", timeout=0.1)
        server.resume()
        assert server.cli("PING") == "PONG"
        server.pause()
        server.kill()
        assert is_refused(server.port)


def test_one_that_cannot_start_says_why() -> None:
    with pytest.raises(AssertionError, match="Bad directive"), RedisServer(config=["no-such-thing yes"]):
        pass


def test_a_replica_has_the_data_of_its_primary() -> None:
    with RedisServer() as primary, RedisServer(replica_of=primary) as replica:
        primary.cli("SET", "key", "value")
        replica.catch_up(primary)
        assert replica.cli("GET", "key") == b"value"


def test_it_outlives_the_thread_that_started_it() -> None:
    with RedisServer() as server:
        for work in (server.kill, server.start):
            thread = Thread(target=work)
            thread.start()
            thread.join()
        assert server.cli("PING") == "PONG"


@pytest.mark.slow
def test_it_dies_with_the_test_process(tmp_path: Path) -> None:
    code = (
        "from redis_servers import RedisServer; server = RedisServer(); server.start(); "
        "print(server.port, flush=True); input()"
    )
    here = environment(PYTHONPATH=str(ROOT / "tests" / "support"), TMPDIR=str(tmp_path))
    with Program(sys.executable, "-c", code, env=here) as tests:
        tests.prints(b"\n")
        port = int(tests.out)
        assert not is_refused(port)
        tests.signal(signal.SIGKILL)
        tests.wait()
    eventually(lambda: is_refused(port), "it still runs")


@pytest.mark.slow
def test_a_cluster_works_and_answers_moved(shared_cluster: RedisCluster) -> None:
    assert shared_cluster.url == "redis+cluster://" + ",".join(f"127.0.0.1:{n.port}" for n in shared_cluster.nodes)
    keys = [f"infrastructure:{i}" for i in range(20)]
    for key in keys:
        shared_cluster.primary(key).cli("SET", key, "value")
    assert {shared_cluster.primary(key) for key in keys} == set(shared_cluster.nodes)
    owner = shared_cluster.primary(keys[0])
    for node in shared_cluster.nodes:
        if node is not owner:
            with pytest.raises(RedisError, match=rf"^MOVED \d+ 127\.0\.0\.1:{owner.port}$"):
                node.cli("GET", keys[0])


@pytest.mark.long
def test_a_clusters_replica_takes_over() -> None:
    with RedisCluster(replicas=1) as cluster:
        primary = cluster.primary("key")
        primary.cli("SET", "key", "value")
        for replica in cluster.nodes[3:]:
            replica.catch_up(cluster.nodes[cluster.nodes.index(replica) - 3])
        primary.kill()
        others = [node for node in cluster.nodes if node is not primary]
        eventually(lambda: cluster.primary("key", seen_by=others[0]) is not primary, "there was no failover")
        cluster.wait(*others)
        assert cluster.primary("key", seen_by=others[0]).cli("GET", "key") == b"value"
        primary.restart()
        primary.catch_up(cluster.primary("key"))
        cluster.wait()


@pytest.mark.slow
def test_a_sentinel_fails_over_when_the_primary_is_killed() -> None:
    with RedisSentinel() as redis:
        assert redis.url == f"redis+sentinel://127.0.0.1:{redis.sentinel.port}/mymaster"
        address = redis.sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")
        assert address == [b"127.0.0.1", b"%d" % redis.primary.port]
        redis.primary.cli("SET", "key", "value")
        redis.replica.catch_up(redis.primary)
        redis.primary.kill()
        eventually(lambda: redis.current() is redis.replica, lambda: redis.sentinel.log[-2000:])
        assert redis.replica.cli("GET", "key") == b"value"
