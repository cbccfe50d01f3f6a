"""Two servers, the nodes of one chat, and the Redis between them: what crosses, and what each takes for it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import quantiles
from typing import Final, NamedTuple

from . import plain
from .load import Figures, Load, LoadFailed, Step, run_load
from .resp import Redis
from .servers import Failure, Server, ServerFailed, running
from .subjects import SUBJECTS, TEXT, Subject, executable, lacks

REDIS: Final = SUBJECTS["redis"]
"""It writes nothing to disk."""
ON_DISK: Final = replace(
    REDIS,
    name="redis-everysec",
    what="it writes what it is told to disk, each second",
    command=(*REDIS.command, "--appendonly", "yes", "--appendfsync", "everysec"),
)
_URL: Final = "redis://127.0.0.1:{redis}/0"
MACHAT: Final = replace(
    SUBJECTS["machat"],
    # a name is had when Redis says so; then the list comes
    protocol=replace(TEXT, hello=(Step('{"name":"%n","room":"%r"}\n/list\n', wait="* "),)),
    command=executable("-redis", _URL),
    missing=lambda: lacks("coredis"),
)
SOCKETIO: Final = replace(
    SUBJECTS["socketio"],
    command=("python", "bench/peers/socketio_server.py", "{port}", _URL),
    missing=lambda: SUBJECTS["socketio"].missing() or lacks("redis"),
)
HERE: Final = "a line within one node, no Redis"
ACROSS: Final = "a line from node to node"
PUBLISHED: Final = "PUBLISH to SUBSCRIBE"
ROUND_TRIP: Final = "a script's round trip"
IN_C: Final = ", plain sockets in C"
_LOOKS: Final = 8
"""At Redis's counters in a run: few, since each costs it something."""
_MOST_PORTS: Final = 64


def core(number: int) -> int | None:
    """The core for Redis (0) and the nodes (1, 2), each its own where there are four: the load is on the first."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[(number + 1) % len(cores)] if len(cores) > 1 else None


class Nodes(NamedTuple):
    """What runs."""

    redis: Server
    a: Server
    b: Server

    def run(self, load: Load) -> Figures:
        """Where one member of each room talks, it is on A and the others on B; otherwise they are on both in turns.

        The processor time of each is in their order; memory is that of the nodes, where nobody talks.
        """
        others = min(load.members, _MOST_PORTS) - 1
        ports = [self.a.port, *[self.b.port] * others] if load.talkers == 1 else [self.a.port, self.b.port]
        measured = self if load.talkers else self[1:]
        try:
            return run_load(load, self.a.protocol, ports, [server.process.pid for server in measured])
        finally:
            for server in self:
                server.check()


@contextlib.contextmanager
def nodes(redis: Subject, node: Subject) -> Iterator[Nodes]:
    """A Redis and two nodes. Raises `ServerFailed`."""
    for subject in (redis, node):
        if reason := subject.missing():
            raise ServerFailed(reason)
    with running(redis, core(0)) as between:
        command = tuple(part.replace("{redis}", str(between.port)) for part in node.command)
        subject = replace(node, command=command)
        with running(subject, core(1)) as a, running(subject, core(2)) as b:
            yield Nodes(between, a, b)


@dataclass(frozen=True)
class Crossing:
    """What one load came to."""

    figures: Figures
    hearers: int
    """Of each line."""
    batch: float
    """Lines that a node gives to a room in one go."""
    together: float
    """Rooms in one call of the script."""

    @property
    def lines_per_second(self) -> float:
        """Lines that have reached everybody."""
        return self.figures.deliveries_per_second / self.hearers

    def cpu(self, number: int) -> float:
        """Microseconds a line: of Redis (0), of node A (1), of node B (2)."""
        return 1e6 * self.figures.server_cpu_each[number] / self.figures.sent


def cross(redis: Subject, node: Subject, load: Load) -> Crossing | Failure:
    """Put a load on two nodes."""
    try:
        with nodes(redis, node) as there:
            looks = _Looks(there.redis.port, load.seconds)
            try:
                figures = there.run(load)
            finally:
                looks.end()
    except (ServerFailed, LoadFailed, OSError) as problem:
        return Failure(str(problem))
    batches = looks.added - load.rooms  # each room's first line is said before the run
    return Crossing(figures, load.members - 1, figures.sent / batches if batches > 0 else 1, looks.together())


def rest(load: Load) -> Figures | Failure:
    """Members come in on both nodes, and say nothing."""
    try:
        with nodes(REDIS, MACHAT) as there:
            return there.run(load)
    except (ServerFailed, LoadFailed, OSError) as problem:
        return Failure(str(problem))


class _Looks:
    """Looks at how often Redis has called what, while a load runs: a batch in a room is one XADD."""

    def __init__(self, port: int, pause: float) -> None:
        self._redis = Redis(port)
        self._pause = pause / _LOOKS
        self._over = threading.Event()
        self._looks: list[tuple[int, int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def added(self) -> int:
        """Batches, by the last look."""
        return self._looks[-1][0] if self._looks else 0

    def together(self) -> float:
        """Batches in one call of the script, from the middle of the run: members come in and leave by calls too."""
        talking = [look for look in self._looks if 0.05 * self.added < look[0] < 0.95 * self.added]
        if len(talking) < 2:
            return 1
        (first_added, first_calls), *_, (last_added, last_calls) = talking
        return (last_added - first_added) / (last_calls - first_calls)

    def end(self) -> None:
        """Look once more."""
        self._over.set()
        self._thread.join()
        with self._redis, contextlib.suppress(OSError, ServerFailed):
            self._look()

    def _run(self) -> None:
        with contextlib.suppress(OSError, ServerFailed):
            while not self._over.wait(self._pause):
                self._look()

    def _look(self) -> None:
        self._looks.append((self._redis.calls("xadd"), self._redis.calls("evalsha")))


Latency = dict[str, tuple[float, float]]
"""Of each way, the median and the 99th percentile in microseconds."""


def latency(seconds: float) -> Latency | Failure:
    """A hundred lines a second from node to node, and by the ways with which that is compared, one after the other."""
    found: Latency = {}

    def noted(name: str, figures: Figures) -> None:
        found[name] = figures.latency_p50, figures.latency_p99

    talk = Load(members=2, rate=plain.RATE, seconds=seconds)
    try:
        with nodes(REDIS, MACHAT) as there:
            noted(ACROSS, there.run(talk))
            port, pids = there.redis.port, there.redis.pids
            for name, times in zip(
                (PUBLISHED, ROUND_TRIP), plain.measure(port, seconds, core(1), core(2)), strict=True
            ):
                percent = quantiles(times, n=100, method="inclusive")
                found[name] = percent[49] / 1000, percent[98] / 1000
            noted(PUBLISHED + IN_C, run_load(talk, REDIS.protocol, port, pids))
            noted(ROUND_TRIP + IN_C, run_load(replace(talk, members=1), plain.ROUND_TRIP, port, pids))
        with running(SUBJECTS["machat"]) as alone:
            noted(HERE, alone.run(talk))
    except (ServerFailed, LoadFailed, OSError) as problem:
        return Failure(str(problem))
    return found
