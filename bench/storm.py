"""A storm of reconnects: all members are dropped at once and come back at once, each to go on where it was.

Each room has a member more, of the text protocol, that stays and talks on: so there is something to resume. Members
come from one Python process on the load's core; half of them reset their connections, the others just close them.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from . import machine, picture
from .bystanders import Delays, bystanders
from .members import Crowd, Member
from .options import Options
from .report import markdown, spread
from .servers import Failure, Server, attempt
from .study import Key, in_turns, publish
from .subjects import OURS, SUBJECTS, Subject
from .watch import cpu_seconds

ROOMS: Final = 50
MEMBERS: Final = 100
"""In each room."""
_TALK: Final = 2.0
"""Lines a second in each room."""
CALM: Final = 2.0
"""Seconds before each storm, in which all is as usual."""
_AT_ONCE: Final = 64
"""Connections made between two looks at what the server answers."""


@dataclass(frozen=True, kw_only=True)
class Storm:
    """One storm. Times in seconds, from when the first member was dropped unless something else is said."""

    began: float
    """By the monotonic clock."""
    members: int
    dropped: float
    """When the last was dropped."""
    returned: list[float]
    """When each was let in again, in this order."""
    longest: float
    """From one member's connecting until it was let in, at most."""
    recovered: int
    """Members that were told that all they missed follows."""
    missed: int
    """Messages that were said while they were away, all members together."""
    lost: int
    doubled: int
    """Messages that members did not get in their place, or twice, until now."""
    given_up: int
    """How often somebody was told that a member had left, since its name was reserved no longer."""
    server_cpu: float
    """Processor time until all were back."""
    client_cpu: float
    delays: Sequence[float] = ()
    """Of the bystanders' lines that were due in the storm …"""
    delays_before: Sequence[float] = ()
    """… and in the calm before it."""

    @property
    def back(self) -> float:
        """When the last was back."""
        return self.returned[-1]

    @property
    def returns_per_second(self) -> float:
        """From the moment when all were gone."""
        return self.members / (self.back - self.dropped)


class _Rooms:
    """The members, and who talks in their rooms."""

    def __init__(self, crowd: Crowd, rooms: int, members: int) -> None:
        self._crowd = crowd
        self.members = [Member(f"member{i}", f"room{i % rooms}") for i in range(rooms * members)]
        self._talkers = [Member(f"talker{i}", f"room{i}", json=False) for i in range(rooms)]
        self._said = [0] * rooms
        self._turn = 0
        self._due = 0.0

    def come_in(self) -> None:
        """Everybody, a few at a time."""
        everybody = [*self._talkers, *self.members]
        for at in range(0, len(everybody), _AT_ONCE):
            for member in everybody[at : at + _AT_ONCE]:
                self._crowd.connect(member)
            self._crowd.until(partial(self._are_in, min(at + _AT_ONCE, len(everybody))), "coming in")

    def _are_in(self, count: int) -> bool:
        return self._crowd.present == count

    def calm(self) -> None:
        """Talk, as usual."""
        self._due = time.monotonic()
        end = self._due + CALM
        self._crowd.until(lambda: time.monotonic() > end, "the calm", doing=self.talk)

    def talk(self) -> None:
        """Say what is due by now."""
        while self._due <= time.monotonic():
            self.say()
            self._due += 1 / (_TALK * len(self._talkers))

    def say(self) -> None:
        """A line in the room whose turn it is."""
        self._crowd.say(self._talkers[self._turn], "it goes on")
        self._said[self._turn] += 1
        self._turn = (self._turn + 1) % len(self._talkers)

    def drop(self) -> None:
        """Everybody but those who talk is gone; then they talk."""
        for i, member in enumerate(self.members):
            self._crowd.drop(member, reset=i % 2 == 0)
        for _ in self._talkers:
            self.say()

    def come_back(self) -> None:
        """All who were dropped, as fast as they can."""
        for i, member in enumerate(self.members):
            self._crowd.come_back(member)
            if i % _AT_ONCE == 0:
                self._crowd.look()
                self.talk()
        everybody = len(self.members) + len(self._talkers)
        self._crowd.until(lambda: self._crowd.present == everybody, "coming back", 60, doing=self.talk)

    def catch_up(self) -> None:
        """Nobody talks until all have everything."""
        self._crowd.until(self._have_all, "catching up")

    def _have_all(self) -> bool:
        return all(member.seq == self._said[i % len(self._said)] for i, member in enumerate(self.members))


def storms(subject: Subject, count: int, rooms: int = ROOMS, members: int = MEMBERS) -> list[Storm] | Failure:
    """So many storms on one server, one after the other."""

    def stormed(server: Server) -> list[Storm]:
        with machine.on_core(machine.load_core()), Crowd(server.port) as crowd:
            there = _Rooms(crowd, rooms, members)
            there.come_in()
            with bystanders(server.port) as delays:
                found = [_storm(server, crowd, there) for _ in range(count)]
        return [_with_delays(storm, delays) for storm in found]

    return attempt(subject, stormed)


def _storm(server: Server, crowd: Crowd, there: _Rooms) -> Storm:
    there.calm()
    there.catch_up()
    missed, left = sum(member.missed for member in there.members), crowd.departures
    used, own, began = cpu_seconds(server.pids), time.process_time(), time.monotonic()
    there.drop()
    dropped = time.monotonic() - began
    there.come_back()
    used, own = cpu_seconds(server.pids) - used, time.process_time() - own
    there.catch_up()
    return Storm(
        began=began,
        members=len(there.members),
        dropped=dropped,
        returned=sorted(member.came_in - began for member in there.members),
        longest=max(member.came_in - member.began for member in there.members),
        recovered=sum(member.recovered is True for member in there.members),
        missed=sum(member.missed for member in there.members) - missed,
        lost=sum(member.lost for member in there.members),
        doubled=sum(member.doubled for member in there.members),
        given_up=crowd.departures - left,
        server_cpu=used,
        client_cpu=own,
    )


def _with_delays(storm: Storm, delays: Delays) -> Storm:
    start, end = storm.began, storm.began + storm.back
    return replace(
        storm,
        delays=[delay for due, delay in delays if start <= due <= end],
        delays_before=[delay for due, delay in delays if start - CALM <= due < start],
    )


def run(options: Options) -> int:
    """Storms on each server; returns the program's exit code."""
    subjects = [SUBJECTS[name] for name in options.only or (OURS,)]
    rooms = max(1, round(ROOMS * options.scale))
    jobs: dict[Key, Callable[[], list[Storm] | Failure]] = {
        (s.name,): partial(storms, s, options.runs, rooms) for s in subjects
    }
    found = in_turns(1, jobs, 10 + 5 * options.runs)
    results = {s.name: found.of(s.name)[1] for s in subjects if found.of(s.name)}
    done = {name: result for name, result in results.items() if not isinstance(result, Failure)}
    failed = {name: result.reason for name, result in results.items() if isinstance(result, Failure)}
    sections = {f"storm: {rooms * MEMBERS:,} members are dropped at once, and come back at once": _tables(done, failed)}
    content = {
        "storm": {"rooms": rooms, "members": MEMBERS, "lines_per_second_in_each_room": _TALK},
        "runs": [
            {"subject": name, "turn": turn, **asdict(storm)}
            for name, result in done.items()
            for turn, storm in enumerate(result, 1)
        ],
        "failed": failed,
    }
    code = publish(options, "storm", subjects, sections, content, interrupted=found.interrupted)
    if done:
        sys.stderr.write(f"{_draw(done, options.folder / 'storm.png')}\n")
    return code


_TOLD: Final = """\

All times are from when the first member was dropped; each figure is the median of the storms, with the lowest and the
highest. Half of the members reset their connections, the others closed them. The longest return is that of one member,
from its connecting until its welcome. A name is given up where its member was away for longer than the server reserves
it. The client is one Python process: where its core is near 100 %, it was what the server waited for. The bystanders
are two members in a room of their own, in a process that shares the client's core; one says ten lines a second.
"""


def _tables(done: Mapping[str, Sequence[Storm]], failed: Mapping[str, str]) -> str:
    back = [
        [
            name,
            spread([storm.dropped for storm in storms], "{:.2f}"),
            spread([storm.back for storm in storms], "{:.2f}"),
            spread([storm.returns_per_second for storm in storms]),
            spread([storm.longest for storm in storms], "{:.2f}"),
            spread([1e6 * storm.server_cpu / storm.members for storm in storms]),
            spread([100 * storm.server_cpu / storm.back for storm in storms], "{:.0f} %"),
            spread([100 * storm.client_cpu / storm.back for storm in storms], "{:.0f} %"),
        ]
        for name, storms in done.items()
    ]
    titles = ["", "all gone s", "all back s", "returns/s", "longest return s", "CPU µs a return", "server's core"]
    first = markdown([*titles, "client's core"], [*back, *([name, reason] for name, reason in failed.items())])
    kept = [
        [
            name,
            f"{min(storm.recovered for storm in storms):,} of {storms[0].members:,}",
            spread([storm.missed for storm in storms]),
            f"{storms[-1].lost:,}",
            f"{storms[-1].doubled:,}",
            f"{max(storm.given_up for storm in storms):,}",
            *(spread([1e3 * statistics.median(d) for d in delays], "{:.1f}") for delays in _delays(storms)),
            *(spread([1e3 * max(d) for d in delays], "{:.1f}") for delays in _delays(storms)),
        ]
        for name, storms in done.items()
    ]
    titles = ["", "recovered", "messages missed", "lost", "doubled", "names given up"]
    titles += ["bystanders ms, before: p50", "in the storm: p50", "before: max", "in the storm: max"]
    return f"{first}\n{markdown(titles, kept)}{_TOLD}"


def _delays(storms: Sequence[Storm]) -> tuple[list[Sequence[float]], list[Sequence[float]]]:
    """Of the bystanders, before each storm and in it."""
    return [storm.delays_before or [0] for storm in storms], [storm.delays or [0] for storm in storms]


def _draw(done: Mapping[str, Sequence[Storm]], path: Path) -> str:
    """How many were back when; the storm that took the median time is drawn."""
    with picture.style() as pyplot:
        if pyplot is None:
            return picture.MISSING
        figure, axis = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for name, storms in done.items():
            middle = sorted(storms, key=lambda storm: storm.back)[len(storms) // 2]
            (line,) = axis.step([0, *middle.returned], range(middle.members + 1), where="post", label=name)
            axis.axvline(middle.dropped, color=line.get_color(), linewidth=1, linestyle=(0, (2, 2)))
        axis.set_title("A storm of reconnects: members that are back")
        axis.set_xlabel("seconds since the first was dropped; dotted: the last was")
        axis.set_xlim(left=0)
        axis.set_ylim(bottom=0)
        axis.legend(loc="lower right")
        return picture.save(figure, path)
