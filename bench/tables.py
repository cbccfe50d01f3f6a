"""Tables in Markdown: all results for a terminal, and the parts that the pages' tables are made of."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from .load import Figures
from .results import Results
from .subjects import FLOOR, OURS
from .workloads import WORKLOADS, Kind


@dataclass(frozen=True)
class Column:
    """A figure in a table: the median of the runs, with the lowest and the highest."""

    title: str
    figure: str
    """The name of a field of `Figures`."""
    form: str = "{:,.0f}"
    """As in `str.format`."""
    scale: float = 1
    """What the figure is multiplied by."""
    ratio: bool = False
    """Whether a column with the ratio to the floor follows."""
    worst: bool = False
    """Whether the highest of the runs is shown, and not their median."""

    def values(self, runs: Sequence[Figures]) -> list[float]:
        """Return the figure of each run."""
        return [self.scale * getattr(run, self.figure) for run in runs]

    def cells(self, runs: Sequence[Figures], base: Sequence[Figures]) -> list[str]:
        """Return its one or two cells; `base` are the runs of the floor."""
        values = self.values(runs)
        cells = [self.form.format(max(values)) if self.worst else spread(values, self.form)]
        if self.ratio:
            floor = statistics.median(self.values(base)) if base else 0
            cells.append(f"{statistics.median(values) / floor:.2f}" if floor else "")
        return cells


_CORES: Final = (
    Column("server's core", "server_cpu_share", "{:.0f} %", scale=100),
    Column("load's core", "generator_cpu_share", "{:.0f} %", scale=100),
)
_FAULTS: Final = (
    Column("lost", "lost", worst=True),
    Column("doubled or late", "disordered", worst=True),
    Column("disconnects", "disconnects", worst=True),
)
_CPU: Final = Column("CPU s per million", "server_cpu_per_million", "{:.3f}", ratio=True)
COLUMNS: Final = {
    Kind.SATURATED: (Column("deliveries/s", "deliveries_per_second", ratio=True), _CPU, *_CORES, *_FAULTS),
    Kind.LATENCY: (
        Column("p50 µs", "latency_p50", ratio=True),
        Column("p99 µs", "latency_p99", ratio=True),
        Column("p99.9 µs", "latency_p999"),
        Column("max µs", "latency_max"),
        _CPU,
        *_CORES,
        *_FAULTS,
    ),
    Kind.AT_REST: (
        Column("bytes each", "bytes_per_connection", ratio=True),
        Column("connects/s", "connects_per_second", ratio=True),
        Column("disconnects", "disconnects", worst=True),
    ),
}

_LEGEND: Final = """\
Every figure is the median of its runs, with the lowest and the highest; lost, doubled or late lines and disconnects are
those of the worst run. Latency is measured from the moment at which a line was due. The server has one core, and the
load another: if the load's is near 100 %, the load was the limit. The floor is a C program without checks, limits,
names or history. Servers that are saturated or at rest are compared with one that makes one send for each member and
wake-up (`batch`), the others with one that makes one send for each member and line (`line`).
"""


def everything(results: Results) -> str:
    """Return all results, for a person."""
    subjects = results.subjects
    servers = [[name, s["what"], s["missing"] or s["version"], f"`{s['command']}`"] for name, s in subjects.items()]
    parts = [
        "# Benchmark\n",
        "".join(f"- {name}: {value}\n" for name, value in results.machine.items()),
        markdown(["server", "what", "version", "command"], servers, words=4),
        _LEGEND,
    ]
    axes: dict[str, list[str]] = {}
    for name, workload in results.workloads.items():
        if axis := WORKLOADS[name].axis:
            axes.setdefault(axis, []).append(name)
        else:
            rows = {subject: (name, subject) for subject in subjects}
            parts.append(f"## {name}: {workload['what']}\n\n{_table(results, WORKLOADS[name].kind, rows)}")
    for axis, names in axes.items():
        rows = {f"{WORKLOADS[name].size:,}": (name, OURS) for name in names}
        parts.append(f"## {axis}: {results.workloads[names[0]]['what']}\n\n{_table(results, Kind.SATURATED, rows)}")
    if results.interrupted:
        parts.append("Interrupted: this is what was measured until then.\n")
    return "\n".join(parts)


def _table(results: Results, kind: Kind, rows: dict[str, tuple[str, str]]) -> str:
    """Return a table whose rows are each about a workload and a server."""
    columns = COLUMNS[kind]
    titles = ["", *(title for c in columns for title in ((c.title, "× floor") if c.ratio else (c.title,)))]
    lines, broken = [], ""
    for label, (workload, subject) in rows.items():
        runs, reason = results.figures(workload, subject), results.failure(workload, subject)
        if runs:
            base = results.figures(workload, FLOOR)
            lines.append([label, *(cell for column in columns for cell in column.cells(runs, base))])
            broken += f"\n{label} failed in a later run: {reason}.\n" if reason else ""
        else:
            lines.append([label, reason or "not measured"])
    return markdown(titles, lines) + broken


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Return a table; its first columns are words, the others figures. A row that is too short is filled up."""
    marks = ["---"] * words + ["---:"] * (len(titles) - words)
    filled = [[*row, *[""] * (len(titles) - len(row))] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [titles, marks, *filled])


def spread(values: Sequence[float], form: str = "{:,.0f}") -> str:
    """Return their median, with the lowest and the highest."""
    low, mid, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return mid if low == high else f"{mid} ({low}–{high})"
