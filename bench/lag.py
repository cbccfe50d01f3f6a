"""What slow members cost the others, the server and the machine.

A room waits for a member that lags by more than half of its log: those who send are not read from, for the grace at
most. Then the member is disconnected, and for a minute nobody waits for its name or its address again. A run lasts four
times `-seconds`: something must come before the grace, and something after it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Final

from chatapi import Limits

from . import picture
from .load import Load
from .options import Options
from .report import flat, markdown, spread
from .servers import Failure
from .stalling import SLICE, Cost, Lag, all_stall, half_stalls, one_returns
from .study import Found, Key, in_turns, publish
from .subjects import OURS, SUBJECTS

NOBODY: Final = "nobody stalls"
HALF: Final = "half stall"
ONE: Final = "one returns"
ALL: Final = "all stall"
_TIMES: Final = 4
_MIB: Final = 1 << 20

Result = Lag | Cost | Failure


def run(options: Options) -> int:
    """Measure on each server; returns the program's exit code."""
    subjects = [SUBJECTS[name] for name in options.only or (OURS,)]
    seconds = _TIMES * options.seconds
    thousand, hundred = (max(30, round(members * options.scale)) for members in (1000, 100))
    loads = {
        NOBODY: Load(members=thousand, talkers=10, window=16, seconds=seconds),
        HALF: Load(members=thousand, talkers=10, window=16, seconds=seconds, stalled=0.5),
        ONE: Load(members=hundred, window=256, seconds=seconds),
    }
    jobs: dict[Key, Callable[[], Result]] = {}
    for subject in subjects:
        jobs |= {(what, subject.name): partial(half_stalls, subject, loads[what]) for what in (NOBODY, HALF)}
        jobs[ONE, subject.name] = partial(one_returns, subject, loads[ONE])
        jobs[ALL, subject.name] = partial(all_stall, subject, thousand // 2)
    found = in_turns(options.runs, jobs, seconds + 3)
    results = _Results(found, [subject.name for subject in subjects])
    sections = {
        f"half of {thousand:,} members stop reading, ten others talk as fast as they can": results.of_half(thousand),
        f"one stalls in a room of {hundred}, is disconnected, and comes back at once": results.of_one(),
        f"{thousand // 2} members stall, and nobody else is there": results.of_all(),
    }
    content = {
        "loads": {what: asdict(load) for what, load in loads.items()},
        "runs": found.runs("what", _flat),
    }
    code = publish(options, "lag", subjects, sections, content, interrupted=found.interrupted)
    sys.stderr.write(f"{_draw(results, options.folder / 'lag.png')}\n")
    return code


def _flat(result: Result) -> dict[str, Any]:
    if not isinstance(result, Lag):
        return flat(result)
    looks = [look._asdict() for look in result.looks]
    return {**flat(result), "looks": looks, "pauses": [(a * SLICE, b * SLICE) for a, b in result.pauses]}


_HALF: Final = """\

A room is held up where it delivers less than a tenth of what it usually does, for 0.3 s at least; before, meanwhile and
after are deliveries a second. An eviction is seen in the number of members. Memory is in MiB: first when the run begins
and all are in, then the highest, then at the run's end, when those who stall are disconnected but still hold what they
did not read. The process's highest is that since its start. The kernel's is that of all TCP sockets on the machine.

Bounds: a room's log takes {log} MiB at most. Of each member that does not read, the kernel holds a send buffer of
{send:g} KiB (the limit, doubled by Linux), {sends:.0f} MiB for all of them; and what the member's own system takes in
for it, which is on this machine too: {receive:.0f} KiB each at first, {receives:.0f} MiB. Each may go over by a packet.
"""
_ONE: Final = """\

Thousands of deliveries in each second of the run, the median of the runs. The one that stalls never reads; whenever it
is seen to be gone it comes back, under a name that was disconnected or from an address that was, in turns.
"""
_ALL: Final = """\

One more says more than half of what the room's log takes, in lines of 1,000 bytes, and nothing else. The share of a
core is that of the server while it waits for those who stall; an eviction is the server's processor time from the last
look before it until all those sockets are closed, divided by their number. What a server at rest takes is subtracted.
"""


class _Results:
    """What came of all runs, in words."""

    def __init__(self, found: Found[Result], subjects: Sequence[str]) -> None:
        self._found = found
        self.subjects = subjects

    def lags(self, what: str, subject: str) -> list[Lag]:
        """The runs with that load that did not fail."""
        return [result for result in self._found.of(what, subject).values() if isinstance(result, Lag)]

    def _table(self, titles: Sequence[str], cells: Callable[[list[Any]], list[str]], *whats: str) -> str:
        rows = []
        for subject, what in product(self.subjects, whats):
            results = list(self._found.of(what, subject).values())
            if done := [result for result in results if not isinstance(result, Failure)]:
                rows.append([subject, what, *cells(done)])
            rows += [[subject, what, result.reason] for result in results if isinstance(result, Failure)][:1]
        return markdown(["server", "", *titles], rows, words=2)

    def of_half(self, members: int) -> str:
        """Deliveries and memory, with half of the members stalled and with none."""
        pace = self._table(
            ["before", "held up", "after", "held up s", "times", "evicted", "lost", "CPU s a million"],
            _pace,
            NOBODY,
            HALF,
        )
        memory = self._table(
            [f"{whose}: {when}" for whose in ("process", "kernel") for when in ("first", "highest", "last")],
            _memory,
            NOBODY,
            HALF,
        )
        limits, receive = Limits(), int(Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()[1])
        bounds = _HALF.format(
            log=limits.log_bytes // _MIB,
            send=2 * limits.send_buffer_bytes / 1024,
            sends=members / 2 * 2 * limits.send_buffer_bytes / _MIB,
            receive=receive / 1024,
            receives=members / 2 * receive / _MIB,
        )
        return f"{pace}\n{memory}{bounds}"

    def of_one(self) -> str:
        """Deliveries in each second."""
        longest = max((len(lag.figures.timeline) for s in self.subjects for lag in self.lags(ONE, s)), default=0)
        each = round(1 / SLICE)
        seconds = [(at, at + each) for at in range(0, longest, each)]

        def cells(lags: list[Lag]) -> list[str]:
            return [
                spread([len(lag.evicted) for lag in lags]),
                spread([len(lag.pauses) for lag in lags]),
                spread([lag.held_up for lag in lags], "{:.1f}"),
                *(f"{median(lag.rate(*second) for lag in lags) / 1000:,.0f}" for second in seconds),
            ]

        titles = ["evicted", "held up: times", "held up s", *(f"s {n}" for n in range(1, len(seconds) + 1))]
        return self._table(titles, cells, ONE) + _ONE

    def of_all(self) -> str:
        """What it costs to wait, and to evict."""

        def cells(costs: list[Cost]) -> list[str]:
            return [
                spread([cost.members for cost in costs]),
                spread([cost.waited for cost in costs], "{:.1f}"),
                spread([100 * cost.waiting_share for cost in costs], "{:.1f} %"),
                spread([1e6 * cost.evicting / cost.members for cost in costs]),
            ]

        titles = ["evicted", "waited s", "server's core while waiting", "CPU µs an eviction"]
        return self._table(titles, cells, ALL) + _ALL


def _pace(lags: list[Lag]) -> list[str]:
    return [
        spread([lag.rate(0, lag.pauses[0][0] if lag.pauses else None) for lag in lags]),
        spread([lag.rate(lag.pauses[0][0], lag.pauses[-1][1]) if lag.pauses else 0 for lag in lags]),
        spread([lag.rate(lag.pauses[-1][1]) if lag.pauses else 0 for lag in lags]),
        spread([lag.held_up for lag in lags], "{:.1f}"),
        spread([len(lag.pauses) for lag in lags]),
        spread([len(lag.evicted) for lag in lags]),
        f"{max(lag.figures.lost for lag in lags):,}",
        spread([lag.figures.server_cpu_per_million for lag in lags], "{:.3f}"),
    ]


def _memory(lags: list[Lag]) -> list[str]:
    resident = [[look.resident / _MIB for look in lag.looks] for lag in lags]
    tcp = [[look.tcp / _MIB for look in lag.looks] for lag in lags]
    columns = [
        [lag.figures.memory_ready / _MIB for lag in lags],
        [lag.highest / _MIB for lag in lags],
        [values[-1] for values in resident],
        [values[0] for values in tcp],
        [max(values) for values in tcp],
        [values[-1] for values in tcp],
    ]
    return [spread(column, "{:.1f}") for column in columns]


def _draw(results: _Results, path: Path) -> str:
    """Deliveries with and without those who stall, memory, and the one who returns: of each the first run."""
    with picture.style() as pyplot:
        if pyplot is None:
            return picture.MISSING
        subjects = [s for s in results.subjects if all(results.lags(what, s) for what in (NOBODY, HALF, ONE))]
        if not subjects:
            return "no picture: not everything was measured"
        seconds = max(lag.figures.seconds for s in subjects for lag in results.lags(NOBODY, s))
        figure, grid = pyplot.subplots(
            3, len(subjects), figsize=(3 + 6 * len(subjects), 10), squeeze=False, sharey="row", layout="constrained"
        )
        for (top, middle, bottom), subject in zip(grid.T, subjects, strict=True):
            nobody, half, one = (results.lags(what, subject)[0] for what in (NOBODY, HALF, ONE))
            _timeline(top, nobody, picture.OTHERS_COLOUR, NOBODY)
            _timeline(top, half, picture.OURS_COLOUR, HALF)
            times = [look.at for look in half.looks]
            process, kernel = zip(*((look.resident / _MIB, look.tcp / _MIB) for look in half.looks), strict=True)
            middle.plot(times, process, color=picture.OURS_COLOUR, label="the server's process")
            middle.plot(times, kernel, color=picture.FLOOR_COLOUR, label="the kernel, for all TCP sockets")
            _timeline(bottom, one, picture.OURS_COLOUR, "deliveries")
            at_the_foot, marks = bottom.get_xaxis_transform(), picture.FLOOR_COLOUR
            bottom.vlines(one.evicted, 0, 0.05, transform=at_the_foot, color=marks, label="disconnected")
            top.set_title(f"{subject}: half of the members stop reading at 0 s")
            middle.set_title(f"{subject}: memory, where half stop reading")
            bottom.set_title(f"{subject}: one stalls, is disconnected, and comes back at once")
            bottom.set_xlabel("seconds")
            for axis in (top, middle, bottom):
                axis.set_xlim(0, seconds)
                axis.set_ylim(0, 1.2 * axis.get_ylim()[1])  # room for the legend
                axis.legend(loc="upper right", ncols=2)
        for axis, label in zip(grid[:, 0], ("million deliveries/s", "MiB", "million deliveries/s"), strict=True):
            axis.set_ylabel(label)
        return picture.save(figure, path)


def _timeline(axis: Any, lag: Lag, colour: str, label: str) -> None:
    rates = [deliveries / SLICE / 1e6 for deliveries in lag.figures.timeline]
    axis.plot([(at + 0.5) * SLICE for at in range(len(rates))], rates, color=colour, label=label, linewidth=1.4)
