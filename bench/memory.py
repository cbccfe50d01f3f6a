"""Does memory end where it began? An hour's worth of joins, leaves and lines in a minute and a half.

The same again and again: hundreds of members come into new rooms, talk, take other names, whisper, go to other rooms,
lose their connections and come back, and leave in every way there is. What the server keeps for a while when they have
left (a room's history, a name, the ids of messages) it keeps for a second here instead of minutes or an hour.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from . import machine, picture
from .members import Crowd, Member
from .options import Options
from .report import markdown
from .servers import Failure, Server, attempt
from .study import Key, in_turns, publish
from .subjects import OURS, SUBJECTS, Subject
from .watch import resident

CYCLES: Final = 32
ROOMS: Final = 50
KINDS: Final = 10
"""Members of each room: one of each kind, see `_cycle`."""
_LINES: Final = 10
"""That each of them says."""
_HISTORY: Final = 20
KEPT: Final = 1.0
"""Seconds that the server keeps things for."""
_SETTLE: Final = 2.5
"""Times as long until all is gone: what is kept for members, then what is kept for their rooms."""
WARM: Final = 10
"""Cycles that are not counted: Python and its allocator find their size."""
_MIB: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """One round of everything."""

    joins: int
    """How often somebody came into a room."""
    deliveries: int
    lost: int
    doubled: int
    """Messages that JSON members did not get in their place, or twice."""
    seconds: float
    resident: int
    """Bytes of memory that the server has when all have left and it has forgotten them."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """All rounds on one server."""

    at_start: int
    """Bytes, before anybody came."""
    cycles: Sequence[Cycle]

    @property
    def counted(self) -> Sequence[Cycle]:
        """Those after the first few, or all where there are not more."""
        return self.cycles[WARM:] if len(self.cycles) > WARM + 1 else self.cycles

    @property
    def slope(self) -> float:
        """Bytes more in each cycle than in the one before, by least squares."""
        sizes = [cycle.resident for cycle in self.counted]
        return statistics.linear_regression(range(len(sizes)), sizes).slope

    @property
    def slope_per_thousand_joins(self) -> float:
        """The same for a thousand joins."""
        return self.slope * 1000 / self.cycles[0].joins


def forgetful(subject: Subject, kept: float) -> Subject:
    """The same server, but one that keeps for a second what others keep for minutes."""
    form = "{}={}" if "bench.embedded" in subject.command else "-{}={}"
    flags = (form.format(name, kept) for name in ("keep", "reserve", "remember"))
    return dataclasses.replace(subject, command=(*subject.command, *flags))


def cycles(subject: Subject, count: int, rooms: int, kept: float) -> Memory | Failure:
    """So many cycles on one server."""

    def lived(server: Server) -> Memory:
        at_start = resident(server.pids)
        found = []
        with machine.on_core(machine.load_core()), Crowd(server.port) as crowd:
            for number in range(count):
                began = time.monotonic()
                members = _cycle(crowd, number, rooms)
                time.sleep(_SETTLE * kept)
                found.append(_counted(members, resident(server.pids), time.monotonic() - began))
        return Memory(at_start=at_start, cycles=found)

    return attempt(forgetful(subject, kept), lived)


def _cycle(crowd: Crowd, number: int, rooms: int) -> list[Member]:
    """One round; returns who was there.

    In each room the first seven come at once, the last three come later and see some history. Even ones speak JSON, odd
    ones text. 0 and 1 take another name, 2 and 3 go to another room, 4 and 8 lose their connection and come back, 5 and
    6 whisper to one another.
    """
    members = [
        Member(f"member{kind}", f"room{number}.{room}", json=kind % 2 == 0)
        for room in range(rooms)
        for kind in range(KINDS)
    ]
    of = [members[kind::KINDS] for kind in range(KINDS)]
    early, late = [m for kind in of[:7] for m in kind], [m for kind in of[7:] for m in kind]
    returning, moving = of[4] + of[8], of[2] + of[3]

    _come_in(crowd, early)
    _talk(crowd, early)
    _come_in(crowd, late, history=_HISTORY)
    for member in of[0] + of[1]:
        crowd.rename(member, f"{member.name}b")
    for member in moving:
        crowd.move(member, f"{member.room}b")
    for one, other in zip(of[5], of[6], strict=True):
        crowd.whisper(one, other.name, "psst")
        crowd.whisper(other, one.name, "what?")
    for member in returning:
        crowd.drop(member, reset=member in of[4])
    _talk(crowd, [member for member in members if member not in returning])
    for member in returning:
        crowd.come_back(member)
    crowd.until(lambda: crowd.present == len(members), "coming back")
    _talk(crowd, members)
    for i, member in enumerate(members):
        _WAYS[(i + i // KINDS) % len(_WAYS)](crowd, member)
    crowd.until(lambda: crowd.present == 0, "leaving")
    return members


def _counted(members: Sequence[Member], bytes_now: int, seconds: float) -> Cycle:
    return Cycle(
        joins=len(members) * (KINDS + 4) // KINDS,  # two of each room move, and two come back
        deliveries=sum(member.lines for member in members),
        lost=sum(member.lost for member in members),
        doubled=sum(member.doubled for member in members),
        seconds=seconds,
        resident=bytes_now,
    )


_WAYS: Final[Sequence[Callable[[Crowd, Member], None]]] = (
    Crowd.bye,
    Crowd.end,
    partial(Crowd.drop, reset=True),
)
"""How one leaves: as one should, by the stream's end, by a reset."""


def _come_in(crowd: Crowd, members: Sequence[Member], **more: Any) -> None:
    there = crowd.present + len(members)
    for member in members:
        crowd.connect(member, **more)
    crowd.until(lambda: crowd.present == there, "coming in")


def _talk(crowd: Crowd, members: Sequence[Member]) -> None:
    """Everybody says some lines, and waits until they are said."""
    for _ in range(_LINES):
        for member in members:
            crowd.say(member, "it is " + "rather " * 8 + "nice here")
        crowd.look()
    for member in members:
        crowd.ask(member)
    crowd.until(lambda: all(member.answered for member in members), "talking")


def run(options: Options) -> int:
    """The cycles on each server; returns the program's exit code."""
    subjects = [SUBJECTS[name] for name in options.only or (OURS,)]
    count = max(WARM + 2, round(CYCLES * options.scale))
    jobs: dict[Key, Callable[[], Memory | Failure]] = {
        (s.name,): partial(cycles, s, count, ROOMS, KEPT) for s in subjects
    }
    found = in_turns(1, jobs, count * 3.5)
    results = {key[0]: turns[1] for key, turns in found.results.items()}
    done = {name: result for name, result in results.items() if isinstance(result, Memory)}
    failed = {name: result.reason for name, result in results.items() if isinstance(result, Failure)}
    title = f"memory: {count} times {ROOMS * KINDS} members in {ROOMS} new rooms"
    content = {
        "cycles": count,
        "rooms": ROOMS,
        "members": ROOMS * KINDS,
        "runs": [{"subject": name, **dataclasses.asdict(memory), **_slopes(memory)} for name, memory in done.items()],
        "failed": failed,
    }
    shown = [forgetful(subject, KEPT) for subject in subjects]
    code = publish(options, "memory", shown, {title: _table(done, failed)}, content, interrupted=found.interrupted)
    if done:
        sys.stderr.write(f"{_draw(done, options.folder / 'memory.png')}\n")
    return code


def _slopes(memory: Memory) -> dict[str, float]:
    return {"slope": memory.slope, "slope_per_thousand_joins": memory.slope_per_thousand_joins}


_TOLD: Final = f"""\

Resident memory in MiB: before anybody came, and after the first, the {WARM}th and the last cycle, when all had left
and were forgotten. Slopes are in KiB, by least squares over the cycles behind the {WARM}th. The servers run with
`keep`, `reserve` and `remember` at {KEPT:g} s, instead of an hour, 5 s and 5 minutes: what they keep for so long is no
part of what they may never let go of. `-scale` changes the number of cycles; each server is measured once.
"""


def _table(done: Mapping[str, Memory], failed: Mapping[str, str]) -> str:
    sums = ("joins", "deliveries", "lost", "doubled")
    rows = []
    for name, memory in done.items():
        ends = [cycle.resident for cycle in memory.cycles]
        sizes = [memory.at_start, ends[0], ends[min(WARM, len(ends)) - 1], ends[-1]]
        slopes = [memory.slope, memory.slope_per_thousand_joins]
        rows.append(
            [
                name,
                *(f"{size / _MIB:.1f}" for size in sizes),
                *(f"{slope / 1024:+.2f}" for slope in slopes),
                *(f"{sum(getattr(cycle, what) for cycle in memory.cycles):,}" for what in sums),
            ]
        )
    rows += [[name, reason] for name, reason in failed.items()]
    titles = ["", "at start", "1st", f"{WARM}th", "last", "slope a cycle", "slope per 1,000 joins", *sums]
    return markdown(titles, rows) + _TOLD


def _draw(done: Mapping[str, Memory], path: Path) -> str:
    """Memory after each cycle."""
    with picture.style() as pyplot:
        if pyplot is None:
            return picture.MISSING
        figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for name, memory in done.items():
            sizes = [memory.at_start, *(cycle.resident for cycle in memory.cycles)]
            label = f"{name}: {memory.slope_per_thousand_joins / 1024:+.1f} KiB per 1,000 joins"
            axis.plot(range(len(sizes)), [size / _MIB for size in sizes], marker="o", markersize=3.5, label=label)
        joins = next(iter(done.values())).cycles[0].joins
        axis.set_title("Memory when all have left")
        axis.set_xlabel(f"cycles, each of them {joins:,} joins and as many leaves; 0 is before the first")
        axis.set_ylabel("MiB, resident")
        axis.set_xlim(left=0)
        axis.set_ylim(0, 1.25 * axis.get_ylim()[1])  # room for the legend
        axis.legend(loc="upper right")
        return picture.save(figure, path)
