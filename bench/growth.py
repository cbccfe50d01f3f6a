"""Does cost grow faster than the work? Each axis changes one thing, and keeps everything else as it is."""

from __future__ import annotations

import dataclasses
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from . import machine, picture
from .load import Figures, Load
from .options import Options
from .report import Column, markdown, spread, table
from .servers import Failure, measure
from .study import STARTING_AND_ENDING, Found, Key, in_turns, publish
from .subjects import FLOOR, OURS, SUBJECTS, Subject, floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Result = Figures | Failure

EVERYBODY: Final = "everybody talks"
FLOOR_BY_LINE: Final = "floor-line"
_ABOUT: Final = """\
Along an axis everything else stays as it is, so also how many lines of a room are on their way at once. Costs are
compared with the floor's in the same turn. The floor sends a line to its sender too, so it has a delivery more of each
line, which counts in small rooms. Where neither core is busy, the load's own pauses are what limits deliveries.
"""
_CONNECTIONS: Final = 50_000
"""As many as the server takes by default."""
_SPARE: Final = 100
"""Descriptors that are needed for other things than connections."""


@dataclass(frozen=True)
class Axis:
    """One thing that grows."""

    name: str
    what: str
    """In some words: what grows, and what does not."""
    loads: Mapping[int, Load]
    """By how much there is of what grows."""


def axes(options: Options) -> list[Axis]:
    """All of them, at the size and length that was asked for.

    How many lines a room has on their way at once stays the same along an axis: it decides how many go out together.
    """

    def sized(*values: int, least: int = 1) -> list[int]:
        return sorted({max(least, round(value * options.scale)) for value in values})

    load = partial(Load, seconds=options.seconds)
    (hundred,), (thousand,) = sized(100, least=2), sized(1000, least=2)
    crowds, rooms = sized(10, 100, 1000, 10_000, least=2), sized(1, 10, 100, 1000, 5000)
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE
    each = max(2, min(10, min(_CONNECTIONS, descriptors) // rooms[-1]))
    senders = [n for n in (1, 10, 100, 1000) if n <= thousand]
    return [
        Axis(
            "members",
            "members of one room, ten of whom talk",
            {n: load(members=n, talkers=min(10, n), window=16) for n in crowds},
        ),
        Axis(
            "rooms",
            f"rooms of {each} members, one of whom talks",
            {n: load(rooms=n, members=each, window=64) for n in rooms},
        ),
        Axis(
            "bytes",
            f"bytes a line, in a room of {hundred}, one of whom talks",
            {n: load(members=hundred, window=64, payload=n) for n in (16, 64, 256, 1024, 4096)},
        ),
        Axis(
            "senders",
            f"senders at once, in a room of {thousand:,}",
            {n: load(members=thousand, talkers=n, window=max(1, thousand // n)) for n in senders},
        ),
    ]


def everybody(options: Options) -> Load:
    """A room in which each member says a line a second."""
    members = max(2, round(1000 * options.scale))
    return Load(members=members, talkers=members, rate=members, seconds=options.seconds)


def run(options: Options) -> int:
    """Measure everything; returns the program's exit code."""
    return study(options, axes(options), everybody(options))


def study(options: Options, along: Sequence[Axis], crowd: Load) -> int:
    """Measure along these axes, and a room in which everybody talks; returns the program's exit code."""
    by_line = dataclasses.replace(floor("line"), name=FLOOR_BY_LINE)
    subjects = [SUBJECTS[name] for name in dict.fromkeys((FLOOR, *(options.only or (OURS,))))]
    loads = {_part(axis, n): load for axis in along for n, load in axis.loads.items()}
    jobs: dict[Key, Callable[[], Result]] = {
        (part, s.name): partial(measure, s, load) for part, load in loads.items() for s in subjects
    }
    jobs |= {(EVERYBODY, s.name): partial(measure, s, crowd) for s in (*subjects, by_line)}
    found = in_turns(options.runs, jobs, options.seconds + STARTING_AND_ENDING)
    sections = {"whether cost grows faster than the work": _ABOUT}
    sections |= {f"{axis.name}: {axis.what}": _axis_table(axis, subjects, found) for axis in along}
    title = f"{EVERYBODY}: a room of {crowd.members:,}, each of whom says a line a second"
    sections[title] = _everybody_table([*subjects, by_line], found)
    content = {
        "workloads": {part: dataclasses.asdict(load) for part, load in {**loads, EVERYBODY: crowd}.items()},
        "runs": found.runs("workload"),
    }
    code = publish(options, "growth", [*subjects, by_line], sections, content, interrupted=found.interrupted)
    sys.stderr.write(f"{draw(along, subjects, found, options.folder / 'growth.png')}\n")
    return code


def _part(axis: Axis, size: int) -> str:
    return f"{axis.name} {size}"


# ---- tables ----


def _figures(found: Found[Result], part: str, subject: str) -> dict[int, Figures]:
    return {turn: r for turn, r in found.of(part, subject).items() if isinstance(r, Figures)}


def _failure(found: Found[Result], part: str, subject: str) -> str:
    return next((r.reason for r in found.of(part, subject).values() if isinstance(r, Failure)), "not measured")


def _ratios(ours: Mapping[int, Figures], base: Mapping[int, Figures]) -> list[float]:
    """Our CPU in the floor's, turn by turn."""
    return [
        figures.server_cpu_per_million / base[turn].server_cpu_per_million
        for turn, figures in ours.items()
        if turn in base and base[turn].server_cpu_per_million
    ]


def _axis_table(axis: Axis, subjects: Sequence[Subject], found: Found[Result]) -> str:
    titles = ["server", "deliveries/s", "CPU s per million", "× floor", "server's core", "load's core", "lost"]
    rows = []
    for size in axis.loads:
        part = _part(axis, size)
        base = _figures(found, part, FLOOR)
        for name in (subject.name for subject in subjects):
            by_turn = _figures(found, part, name)
            if not by_turn:
                rows.append([f"{size:,}", name, _failure(found, part, name)])
                continue
            runs, ratios = by_turn.values(), _ratios(by_turn, base)
            rows.append(
                [
                    f"{size:,}",
                    name,
                    spread([f.deliveries_per_second for f in runs]),
                    spread([f.server_cpu_per_million for f in runs], "{:.3f}"),
                    spread(ratios, "{:.2f}") if ratios else "",
                    f"{100 * median(f.server_cpu_share for f in runs):.0f} %",
                    f"{100 * median(f.generator_cpu_share for f in runs):.0f} %",
                    f"{max(f.lost for f in runs):,}",
                ]
            )
    return markdown([axis.name, *titles], rows, words=2)


_EVERYBODY_COLUMNS: Final = (
    Column("deliveries/s", lambda f: f.deliveries_per_second, "{:,.0f}"),
    Column("p50 µs", lambda f: f.latency_p50, "{:,.0f}", ratio=True),
    Column("p99 µs", lambda f: f.latency_p99, "{:,.0f}", ratio=True),
    Column("server's core", lambda f: 100 * f.server_cpu_share, "{:.0f} %"),
    Column("CPU s per million", lambda f: f.server_cpu_per_million, "{:.3f}", ratio=True),
    Column("load's core", lambda f: 100 * f.generator_cpu_share, "{:.0f} %"),
    Column("lost", lambda f: f.lost, "{:,.0f}", worst=True),
)


def _everybody_table(subjects: Sequence[Subject], found: Found[Result]) -> str:
    rows = {
        subject.name: list(_figures(found, EVERYBODY, subject.name).values())
        or _failure(found, EVERYBODY, subject.name)
        for subject in subjects
    }
    return table(_EVERYBODY_COLUMNS, rows)


# ---- the picture ----


def draw(along: Sequence[Axis], subjects: Sequence[Subject], found: Found[Result], path: Path) -> str:
    """CPU for a million deliveries along each axis; returns a line that says where the picture is, or why not."""
    with picture.style() as pyplot:
        if pyplot is None:
            return picture.MISSING
        rows = -(-len(along) // 2)
        figure, grid = pyplot.subplots(
            rows, 2, figsize=(12, 4 * rows), sharey=True, squeeze=False, layout="constrained"
        )
        figure.get_layout_engine().set(w_pad=0.2, h_pad=0.2)
        for axis, panel in zip(along, grid.flat, strict=False):
            _draw_axis(axis, subjects, found, panel)
        for panel in grid.flat[len(along) :]:
            panel.set_visible(False)
        figure.suptitle("Does cost grow faster than the work?", x=0.01, ha="left", fontsize=16, fontweight="bold")
        figure.supxlabel(
            "The median of the runs, in a band from the lowest to the highest; the numbers are times the floor's CPU, "
            "in the same turn.\n"
            + " · ".join(machine.description()[name] for name in ("processor", "system", "python", "commit", "date")),
            x=0.01,
            ha="left",
            fontsize=8,
            color=pyplot.rcParams["axes.labelcolor"],
        )
        grid.flat[0].legend(loc="upper right")
        for panel in grid[:, 0]:
            panel.set_ylabel("CPU s per million deliveries")
        return picture.save(figure, path)


def _draw_axis(axis: Axis, subjects: Sequence[Subject], found: Found[Result], panel: Axes) -> None:
    from matplotlib.ticker import LogLocator

    for number, subject in enumerate(subjects):
        by_size = {size: _figures(found, _part(axis, size), subject.name) for size in axis.loads}
        costs = {size: [f.server_cpu_per_million for f in runs.values()] for size, runs in by_size.items() if runs}
        middle = [median(values) for values in costs.values()]
        colour = picture.OTHERS_COLOUR if subject.name == FLOOR else f"C{number - 1}"
        panel.plot(list(costs), middle, color=colour, marker="o", markersize=5, linewidth=2, label=subject.name)
        low, high = [min(values) for values in costs.values()], [max(values) for values in costs.values()]
        panel.fill_between(list(costs), low, high, color=colour, alpha=0.25, linewidth=0)
        for size, cost in zip(costs, high, strict=True):
            ratios = _ratios(by_size[size], _figures(found, _part(axis, size), FLOOR))
            if subject.name != FLOOR and ratios and len(subjects) == 2:  # with more they would lie on each other
                panel.annotate(
                    f"{median(ratios):.1f}×",
                    (size, cost),
                    xytext=(0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    color=colour,
                )
    panel.set(xscale="log", yscale="log", title=axis.what, xlabel=axis.name)
    panel.set_xticks(list(axis.loads), [f"{size:,}" for size in axis.loads])
    panel.minorticks_off()
    panel.margins(y=0.12)  # for the numbers
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
