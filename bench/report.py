"""What was measured, as a page of Markdown and as JSON."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .load import Figures, Load
from .servers import Failure
from .subjects import FLOOR, Subject


@dataclass(frozen=True)
class Column:
    """A figure in a table: the median of its runs, with the lowest and the highest."""

    title: str
    value: Callable[[Figures], float]
    form: str
    """As in `str.format`."""
    ratio: bool = False
    """Whether the ratio to the floor follows."""
    worst: bool = False
    """Whether the highest of the runs is what counts, and not their median."""


@dataclass(frozen=True)
class Run:
    """One subject, measured once."""

    part: str
    """The name of the workload, or of what else a study's table is about."""
    subject: str
    turn: int
    result: Figures | Failure


@dataclass(frozen=True)
class Part:
    """What one table is about."""

    what: str
    load: Load
    columns: Sequence[Column]


@dataclass
class Results:
    """All that a study has found."""

    machine: Mapping[str, str]
    subjects: Mapping[str, Mapping[str, str]]
    parts: Mapping[str, Part]
    runs: list[Run] = field(default_factory=list)
    interrupted: bool = False

    def figures(self, part: str, subject: str) -> list[Figures]:
        """Of all runs that came to an end."""
        return [r.result for r in self.runs if (r.part, r.subject) == (part, subject) and isinstance(r.result, Figures)]

    def failure(self, part: str, subject: str) -> str:
        """Why there is no figure, or none for some of the runs; nothing where all went well."""
        reasons = [
            r.result.reason
            for r in self.runs
            if (r.part, r.subject) == (part, subject) and isinstance(r.result, Failure)
        ]
        return reasons[0] if reasons else self.subjects[subject]["missing"]


def describe(subject: Subject) -> dict[str, str]:
    """A subject's name, version and command, or what it lacks."""
    missing = subject.missing()
    return {
        "what": subject.what,
        "version": "" if missing else subject.version(),
        "command": " ".join(part or "''" for part in subject.command).removeprefix("{build}/"),
        "missing": missing,
    }


def page(results: Results) -> str:
    """Everything, for a person."""
    parts = [heading("Benchmark", results.machine, results.subjects), _LEGEND]
    for name, part in results.parts.items():
        rows = {s: results.figures(name, s) or results.failure(name, s) for s in results.subjects}
        parts.append(f"## {name}: {part.what}\n\n{table(part.columns, rows)}")
        broken = {s: results.failure(name, s) for s, row in rows.items() if not isinstance(row, str)}
        parts += [f"{subject} failed in a later run: {reason}.\n" for subject, reason in broken.items() if reason]
    if results.interrupted:
        parts.append("Interrupted: this is what was measured until then.\n")
    return "\n".join(parts)


def table(columns: Sequence[Column], rows: Mapping[str, Sequence[Figures] | str], floor: str = FLOOR) -> str:
    """A table of Markdown: for each row its figures, or in some words why there are none."""
    titles = ["", *(title for c in columns for title in ((c.title, "× floor") if c.ratio else (c.title,)))]
    against = rows.get(floor)
    base = against if against and not isinstance(against, str) else ()
    lines = []
    for name, figures in rows.items():
        cells = [name]
        if isinstance(figures, str):
            cells.append(figures or "not measured")
        else:
            for column in columns:
                cells.append(_cell(column, figures))
                if column.ratio:
                    cells.append(ratio(column.value, figures, base))
        lines.append(cells)
    return markdown(titles, lines)


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table; its first columns are words, the others figures. A row that is too short is filled up."""
    marks = ["---"] * words + ["---:"] * (len(titles) - words)
    filled = [[*row, *[""] * (len(titles) - len(row))] for row in rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [titles, marks, *filled])


def spread(values: Sequence[float], form: str = "{:,.0f}") -> str:
    """Their median, with the lowest and the highest."""
    low, mid, high = (form.format(value) for value in (min(values), statistics.median(values), max(values)))
    return mid if low == high else f"{mid} ({low}–{high})"


def middle(value: Callable[[Figures], float], figures: Sequence[Figures]) -> float:
    """The median of some runs."""
    return statistics.median(value(f) for f in figures)


def ratio(value: Callable[[Figures], float], figures: Sequence[Figures], floor: Sequence[Figures]) -> str:
    """The ratio of two medians, or nothing where there is no floor."""
    base = middle(value, floor) if floor else 0
    return f"{middle(value, figures) / base:.2f}" if base else ""


def _cell(column: Column, figures: Sequence[Figures]) -> str:
    values = [column.value(f) for f in figures]
    return column.form.format(max(values)) if column.worst else spread(values, column.form)


_LEGEND: Final = """\
Every figure is the median of its runs (with the lowest and the highest); of what is lost, doubled, late or
disconnected, it is the worst of them. Latency is from when a line was due. Each server has one core, and so has the
load: where the load's is near 100 %, the load was the limit. The floor is a C program without checks, limits, names or
history; servers that are saturated or at rest are compared with one send for each member and wake-up (`batch`), the
others with one send for each member and line (`line`).
"""


def heading(title: str, machine: Mapping[str, str], subjects: Mapping[str, Mapping[str, str]]) -> str:
    """What was measured, on what, with which commands."""
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    rows = [[name, s["what"], s["missing"] or s["version"], f"`{s['command']}`"] for name, s in subjects.items()]
    return "\n".join([*lines, markdown(["server", "what", "version", "command"], rows, words=4)])


def write_json(results: Results, path: Path) -> None:
    """Everything, for programs: every run with all its figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": results.machine,
        "subjects": results.subjects,
        "workloads": {
            name: {"what": part.what, "load": dataclasses.asdict(part.load)} for name, part in results.parts.items()
        },
        "runs": [_flat(run) for run in results.runs],
        "interrupted": results.interrupted,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def _flat(run: Run) -> dict[str, object]:
    return {"workload": run.part, "subject": run.subject, "turn": run.turn, **flat(run.result)}


def flat(result: Any) -> dict[str, Any]:
    """A result for JSON: a dataclass, or why there is none."""
    return {"failed": result.reason} if isinstance(result, Failure) else dataclasses.asdict(result)
