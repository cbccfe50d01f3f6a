"""The workloads: the behaviour of the members, and the kind of figures that matter.

W1 to W6 are measured on every server. The growth workloads change one thing at a time and keep the rest, also the
number of lines of a room that are on their way at once, because it decides how many lines go out together; they are
measured on this server and on the floor.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from .load import Load
from .subjects import FLOOR, OURS, Subject

GROWTH: Final = "growth"
"""The name of all growth workloads together."""
_CONNECTIONS: Final = 50_000
"""The server's default limit."""
_SPARE: Final = 100
"""Descriptors that are needed for other things than connections."""


class Kind(Enum):
    """What limits a workload, and so which figures matter."""

    SATURATED = "deliveries"
    LATENCY = "latency"
    AT_REST = "memory"


@dataclass(frozen=True)
class Workload:
    """A load with a name."""

    name: str
    what: str
    load: Load
    kind: Kind
    floor: str = "batch"
    """The floor that it is compared with: a saturated server sends in batches, an unsaturated one line by line."""
    share: float = 1
    """The part of `-seconds` that one run lasts."""
    axis: str = ""
    """For a growth workload, what grows, …"""
    size: int = 0
    """… and how much there is of it."""

    def fits(self, subject: Subject) -> bool:
        """Return whether it is measured on this server."""
        return not self.axis or subject.name in (FLOOR, OURS)


def _growth() -> Iterator[Workload]:
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE
    each = max(2, min(10, min(_CONNECTIONS, descriptors) // 5000))
    axes: dict[str, tuple[str, dict[int, Load]]] = {
        "members": (
            "members of one room, ten of whom send",
            {n: Load(members=n, talkers=min(10, n), window=16) for n in (10, 100, 1000, 10_000)},
        ),
        "rooms": (
            f"rooms of {each}, one member of each sends",
            {n: Load(rooms=n, members=each, window=64) for n in (1, 10, 100, 1000, 5000)},
        ),
        "bytes": (
            "bytes a line, in a room of 100, one member of which sends",
            {n: Load(members=100, window=64, payload=n) for n in (16, 64, 256, 1024, 4096)},
        ),
        "senders": (
            "senders at once, in a room of 1,000",
            {n: Load(members=1000, talkers=n, window=1000 // n) for n in (1, 10, 100, 1000)},
        ),
    }
    for axis, (what, loads) in axes.items():
        for size, load in loads.items():
            yield Workload(f"{axis}-{size}", what, load, Kind.SATURATED, share=0.1, axis=axis, size=size)


_ALL: Final = (
    Workload(
        "W1", "one room of 100, one member sends as fast as it can", Load(members=100, window=256), Kind.SATURATED
    ),
    Workload(
        "W2",
        "one room of 1,000, ten members send as fast as they can",
        Load(members=1000, talkers=10, window=16),
        Kind.SATURATED,
    ),
    Workload(
        "W3",
        "100 rooms of 10, one member of each sends as fast as it can",
        Load(rooms=100, members=10, window=64),
        Kind.SATURATED,
    ),
    Workload(
        "W4",
        "one room of 1,000, ten lines a second in all",
        Load(members=1000, talkers=10, rate=10),
        Kind.LATENCY,
        floor="line",
        share=0.5,
    ),
    Workload(
        "W5",
        "100 rooms of 10, a thousand lines a second in all",
        Load(rooms=100, members=10, rate=1000),
        Kind.LATENCY,
        floor="line",
        share=0.5,
    ),
    Workload(
        "W6",
        "10,000 members in 1,000 rooms send nothing",
        Load(rooms=1000, members=10, talkers=0),
        Kind.AT_REST,
        share=0.1,
    ),
    *_growth(),
)

WORKLOADS: Final = {workload.name: workload for workload in _ALL}
GROUPS: Final = {
    "": tuple(name for name, workload in WORKLOADS.items() if not workload.axis),
    GROWTH: tuple(name for name, workload in WORKLOADS.items() if workload.axis),
    "all": tuple(WORKLOADS),
}
"""Names of workloads that `-w` takes for several of them; the empty one is what it takes if it is not given."""


def scaled(workload: Workload, seconds: float, scale: float) -> Workload:
    """Return it with runs of so many seconds, and with this part of its rooms and members."""
    load = dataclasses.replace(workload.load, seconds=seconds * workload.share)
    if scale == 1:
        return dataclasses.replace(workload, load=load)
    members = max(2, round(load.members * scale))
    talkers = min(load.talkers, members - 1)
    load = dataclasses.replace(load, rooms=max(1, round(load.rooms * scale)), members=members, talkers=talkers)
    what = f"{workload.what} (here: {load.rooms} of {load.members})"
    return dataclasses.replace(workload, what=what, load=load)
