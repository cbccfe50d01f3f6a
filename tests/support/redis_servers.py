"""Real Redis servers, started by the tests on ports of 127.0.0.1: a lone one, a cluster, and one with a sentinel."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle, permutations
from pathlib import Path
from typing import Self

import pytest
from executables import DEADLINE, eventually
from resp import RedisError, Reply, call


def _what_is_missing() -> str:
    if sys.platform != "linux" or not shutil.which("setpriv"):
        return "these tests need Linux and its setpriv"
    if not shutil.which("redis-server"):
        return "there is no redis-server; `apt-get install redis-server`"
    version = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    major = re.search(r"v=(\d+)", version)
    return "" if major and int(major[1]) >= 7 else f"redis-server is older than 7.0: {version.strip()}"


MISSING = _what_is_missing()
needs_redis = pytest.mark.skipif(bool(MISSING), reason=MISSING)

# A server is killed when the thread that started it ends, so one thread that lasts starts them all.
_starter = ThreadPoolExecutor(1, "redis-servers")


class RedisServer:
    """One `redis-server` with a port and a folder of its own, which it keeps over restarts.

    It runs only within its `with` block, and dies with the test process too. Without `appendfsync` ("always" or
    "everysec") it keeps nothing on disk; `config` has further lines for its redis.conf.
    """

    def __init__(
        self,
        *,
        appendfsync: str = "",
        replica_of: RedisServer | None = None,
        cluster_enabled: bool = False,
        config: Sequence[str] = (),
        arguments: Sequence[str] = (),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="redis-")
        self._file, self._log = (Path(self._folder.name, name) for name in ("redis.conf", "redis.log"))
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._reserved: list[socket.socket] = []
        self.port = self._reserve()
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self._folder.name}", 'save ""', "shutdown-timeout 0"]
        lines += ["enable-debug-command yes", "repl-diskless-sync-delay 0"]
        if appendfsync:
            lines += ["appendonly yes", f"appendfsync {appendfsync}"]
        if replica_of:
            lines += [f"replicaof 127.0.0.1 {replica_of.port}"]
        if cluster_enabled:
            lines += ["cluster-enabled yes", "cluster-node-timeout 1000", f"cluster-port {self._reserve()}"]
            lines += ["cluster-announce-ip 127.0.0.1", "cluster-replica-validity-factor 0"]
            lines += ["cluster-allow-replica-migration no"]
        self._file.write_text("\n".join([*lines, *config]) + "\n")

    def _reserve(self) -> int:
        # A free port, which stays ours while the server is down: a bound socket lets nobody in but who sets
        # SO_REUSEADDR, as Redis does, and the kernel gives its port to no outgoing connection.
        reserved = socket.socket()
        self._reserved.append(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address for the broker."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._running.pid

    @property
    def log(self) -> str:
        """The log so far."""
        return self._log.read_text(errors="replace")

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "this Redis does not run"
        return self._process

    def start(self) -> None:
        """Start it, and wait until it has loaded its data and answers."""
        assert self._process is None, "this Redis runs already"
        command = ["setpriv", "--pdeathsig", "KILL", "redis-server", str(self._file), *self._arguments]
        with self._log.open("ab") as log:
            self._process = _starter.submit(lambda: subprocess.Popen(command, stdout=log, stderr=log)).result()

        def answers() -> bool:
            assert self._running.poll() is None, f"redis-server ended: {self.log[-2000:]}"
            try:
                return bool(self.cli("PING") == "PONG")
            except (ConnectionError, RedisError):
                return False  # not listening yet, or still loading

        eventually(answers, lambda: f"redis-server does not answer: {self.log[-2000:]}")

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order, with its data on disk."""
        self.resume()
        self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> None:
        self._running.send_signal(number)
        self._running.wait(DEADLINE)
        self._process = None

    def restart(self) -> None:
        """Start it again, on the same port and folder, after a SIGKILL if it still runs."""
        if self._process is not None:
            self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections stay, and nothing answers."""
        self._running.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._running.send_signal(signal.SIGCONT)

    def cli(self, *command: str | bytes | float, timeout: float = DEADLINE) -> Reply:
        """Run one command on a connection of its own; raise RedisError, TimeoutError or ConnectionError if it fails."""
        return call(self.port, command, timeout)

    def info(self, section: str) -> dict[str, str]:
        """Return a section of INFO."""
        lines = self.cli("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def catch_up(self, primary: RedisServer) -> None:
        """Wait until this replica has all that its primary has."""

        def has_all() -> bool:
            there, here = primary.info("replication"), self.info("replication")
            online = any(f"port={self.port},state=online," in value for value in there.values())
            return online and here.get("slave_repl_offset") == there["master_repl_offset"]

        eventually(has_all, lambda: f"the replica did not catch up: {self.log[-2000:]}")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        if self._process is not None:
            self.kill()
        for reserved in self._reserved:
            reserved.close()
        self._folder.cleanup()


class _Together(ABC):
    """Several servers that start and end together."""

    nodes: list[RedisServer]

    @abstractmethod
    def _join(self) -> None:
        """Make one of them, now that they run."""

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()


class RedisCluster(_Together):
    """A cluster of three primaries, and with `replicas` as many replicas of each; `nodes` has the primaries first.

    It works after two seconds, which is what Redis takes.
    """

    def __init__(self, *, replicas: int = 0, appendfsync: str = "", config: Sequence[str] = ()) -> None:
        self.nodes = [
            RedisServer(cluster_enabled=True, appendfsync=appendfsync, config=config) for _ in range(3 * (1 + replicas))
        ]

    @property
    def url(self) -> str:
        """Its address for the broker: the first three nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    def primary(self, key: str | bytes, *, seen_by: RedisServer | None = None) -> RedisServer:
        """The node that serves a key's slot, as the first node (or another one) sees it."""
        asked = seen_by or self.nodes[0]
        slot = asked.cli("CLUSTER", "KEYSLOT", key)
        [port] = [primary[1] for first, last, primary, *_ in asked.cli("CLUSTER", "SLOTS") if first <= slot <= last]
        [node] = [node for node in self.nodes if node.port == port]
        return node

    def wait(self, *nodes: RedisServer) -> None:
        """Wait until these nodes, (default: all) see the whole cluster working."""

        def work() -> bool:
            return all(wanted <= set(node.cli("CLUSTER", "INFO").decode().splitlines()) for node in asked)

        asked, wanted = nodes or self.nodes, {"cluster_state:ok", f"cluster_known_nodes:{len(self.nodes)}"}
        eventually(work, lambda: f"not all see it working: {[node.cli('CLUSTER', 'INFO') for node in asked]}")

    def _join(self) -> None:
        primaries, replicas = self.nodes[:3], self.nodes[3:]
        slots = (0, 5460), (5461, 10922), (10923, 16383)
        for epoch, (node, (first, last)) in enumerate(zip(primaries, slots, strict=True), 1):
            node.cli("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            node.cli("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, other in permutations(self.nodes, 2):
            bus = other.cli("CONFIG", "GET", "cluster-port")[1]
            node.cli("CLUSTER", "MEET", "127.0.0.1", other.port, bus)
        self.wait()
        pairs = list(zip(replicas, cycle(primaries), strict=False))
        for replica, primary in pairs:
            replica.cli("CLUSTER", "REPLICATE", primary.cli("CLUSTER", "MYID"))
        for replica, primary in pairs:
            replica.catch_up(primary)


class RedisSentinel(_Together):
    """A primary with one replica, and one sentinel that puts the replica in the primary's place when it must."""

    NAME = "mymaster"

    def __init__(self, *, appendfsync: str = "") -> None:
        self.primary = RedisServer(appendfsync=appendfsync)
        self.replica = RedisServer(appendfsync=appendfsync, replica_of=self.primary)
        watch = f"sentinel monitor {self.NAME} 127.0.0.1 {self.primary.port} 1"
        limits = [f"sentinel down-after-milliseconds {self.NAME} 500", f"sentinel failover-timeout {self.NAME} 5000"]
        self.sentinel = RedisServer(config=[watch, *limits], arguments=["--sentinel"])
        self.nodes = [self.primary, self.replica, self.sentinel]

    @property
    def url(self) -> str:
        """Its address for the broker."""
        return f"redis+sentinel://127.0.0.1:{self.sentinel.port}/{self.NAME}"

    def current(self) -> RedisServer:
        """The server that is the primary for the sentinel: `primary` at first, later perhaps `replica`."""
        _, port = self.sentinel.cli("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.NAME)
        return self.primary if int(port) == self.primary.port else self.replica

    def _join(self) -> None:
        self.replica.catch_up(self.primary)
        eventually(lambda: self.sentinel.cli("SENTINEL", "REPLICAS", self.NAME), lambda: self.sentinel.log[-2000:])


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    """A Redis for tests that do not disturb it; each uses a prefix of its own for its keys."""
    if MISSING:
        pytest.skip(MISSING)
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[RedisCluster]:
    """A cluster for tests that do not disturb it; each uses a prefix of its own for its keys."""
    if MISSING:
        pytest.skip(MISSING)
    with RedisCluster() as cluster:
        yield cluster
