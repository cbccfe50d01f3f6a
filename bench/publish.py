"""Put one run into the documentation: its figures as JSON, the tables of four pages, and the pictures.

A page marks the place of a table with the comments `<!-- measured: NAME -->` and `<!-- end -->`; everything between
them is replaced.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from . import picture
from .machine import ROOT
from .results import Failure, Results
from .subjects import DEFAULT, FLOOR, OURS
from .tables import markdown, spread
from .workloads import GROUPS, GROWTH, WORKLOADS

_BENCHMARKS: Final = ROOT / "docs" / "explanation" / "benchmarks.md"
PAGES: Final = (
    _BENCHMARKS,
    _BENCHMARKS.with_name("scaling.md"),
    ROOT / "docs" / "how-to" / "store.md",
    ROOT / "README.md",
)
"""All pages with figures."""
PUBLISHED: Final = _BENCHMARKS.with_suffix(".json")
"""The published run."""
JSON: Final = f"{OURS}-json"
REDIS: Final = f"{OURS}-redis"
VARIANTS: Final = (OURS, JSON, f"{OURS}-asyncio", f"{OURS}-trio", f"{OURS}-store-normal", f"{OURS}-store-full", REDIS)


def main(path: Path) -> int:
    """Publish the results in a file; returns the exit code."""
    try:
        results = Results.read(path)
        pages = {page: fill(page.read_text(encoding="utf-8"), results) for page in PAGES}
        if results.interrupted or "with changes" in results.machine["commit"]:
            raise ValueError("it was interrupted, or measured with uncommitted changes")
    except (OSError, ValueError, TypeError, KeyError) as problem:
        sys.stderr.write(f"python -m bench publish: {path} cannot be published: {problem}\n")
        return 1
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    results.write(PUBLISHED)
    for drawn in picture.draw(results, PUBLISHED.parent, PUBLISHED.stem, DEFAULT):
        sys.stderr.write(f"{drawn}\n")
    return 0


def fill(page: str, results: Results) -> str:
    """Return the page with its tables made anew. Raises ValueError if figures for them are missing."""

    def made(region: re.Match[str]) -> str:
        begin, name, space, end = region.groups()
        return f"{begin}{space}{_TABLES[name](results).strip()}{space}{end}"

    return re.sub(r"(<!-- measured: (\w+) -->)(\s*).*?(<!-- end -->)", made, page, flags=re.DOTALL)


# ---- figures as text ----


def _figure(results: Results, workload: str, subject: str, figure: str) -> float:
    value = results.median(workload, subject, figure)
    if value is None:
        raise ValueError(f"{workload} on {subject}: {results.failure(workload, subject) or 'not measured'}")
    return value


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _cpu(results: Results, workload: str, subject: str) -> str:
    return f"{_figure(results, workload, subject, 'server_cpu_per_million'):.3f}"


def _latency(results: Results, workload: str, subject: str) -> str:
    return ", ".join(_short(_figure(results, workload, subject, f"latency_{p}") / 1000) for p in ("p50", "p99"))


def _millions(results: Results, workload: str, subject: str) -> str:
    _figure(results, workload, subject, "deliveries_per_second")
    values = [run.deliveries_per_second / 1e6 for run in results.figures(workload, subject)]
    return spread(values, "{:.2f}" if max(values) < 1 else "{:.1f}")


def _lines(results: Results, workload: str, subject: str) -> str:
    hearers = results.workloads[workload]["load"]["members"] - 1
    return f"{_figure(results, workload, subject, 'deliveries_per_second') / hearers:,.0f}"


def _bytes(results: Results, workload: str, subject: str) -> str:
    return f"{_figure(results, workload, subject, 'bytes_per_connection'):,.0f}"


def _connects(results: Results, workload: str, subject: str) -> str:
    return f"{_figure(results, workload, subject, 'connects_per_second'):,.0f}"


_Make = Callable[[Results, str, str], str]
_COLUMNS: Final[Sequence[tuple[str, _Make]]] = (
    *((workload, _millions) for workload in ("W1", "W2", "W3")),
    *((workload, _latency) for workload in ("W4", "W5")),
)
_TITLES: Final = (
    "",
    *(f"{workload}, millions/s" for workload in ("W1", "W2", "W3")),
    *(f"{workload}, p50 and p99 ms" for workload in ("W4", "W5")),
)


def _cell(make: _Make, results: Results, workload: str, subject: str) -> str:
    """Return a cell of a table, in which a figure may be missing."""
    try:
        return make(results, workload, subject)
    except ValueError:
        return "–"


def _rows(results: Results, subjects: Sequence[str], columns: Sequence[tuple[str, _Make]]) -> list[list[str]]:
    shown = [subject for subject in subjects if subject in results.subjects]
    rows = [[f"`{s}`", *(_cell(make, results, workload, s) for workload, make in columns)] for s in shown]
    return [[f"**{cell}**" for cell in row] if row[0] == f"`{OURS}`" else row for row in rows]


# ---- the tables ----


def _measured(results: Results) -> str:
    about, subjects = results.machine, results.subjects
    versions = {name: s["version"] for name, s in subjects.items() if OURS not in name and name != FLOOR}
    others = [f"{name} ({version})" for name, version in versions.items() if version]
    plans: defaultdict[str, list[str]] = defaultdict(list)
    for subject in subjects:
        if runs := results.figures("W1", subject):
            plans[f"Runs of each workload: {len(runs)} of {runs[0].seconds:.1f} s"].append(f"`{subject}`")
    failed = [
        f"`{run.subject}` failed in {run.workload}: {run.result.reason}"
        for run in results.runs
        if isinstance(run.result, Failure)
    ]
    faults = [
        f"`{name}` lost {run.lost:,} and doubled or delayed {run.disordered:,} lines in {workload}"
        for name in subjects
        for workload in GROUPS[""]
        for run in results.figures(workload, name)
        if run.lost or run.disordered
    ]
    lines = [
        f"Measured on {about['date']} at commit `{about['commit']}`, with `{about['command']}`.",
        f"Machine: {about['processor']}; {about['system']}; {about['python']}; {about['pinning']}.",
        f"This server: {subjects[OURS]['version']}. Other servers: {', '.join(others) or 'none'}.",
        *(f"{plan}: {', '.join(names)}." for plan, names in plans.items()),
        "Runs of W4 and W5 are half as long; those of W6 and of growth are shorter and fewer.",
        f"{'; '.join([*failed, *faults]) or 'No server lost, doubled or reordered a line'}.",
    ]
    return "".join(f"- {line}\n" for line in lines)


def _main(results: Results) -> str:
    titles = [*_TITLES, "W6, bytes each", "W6, connects/s"]
    return markdown(titles, _rows(results, DEFAULT, [*_COLUMNS, ("W6", _bytes), ("W6", _connects)]))


def _variants(results: Results) -> str:
    return markdown(_TITLES, _rows(results, VARIANTS, _COLUMNS))


def _seconds(results: Results) -> str:
    def busy(results: Results, workload: str, subject: str) -> str:
        share = _figure(results, workload, subject, "server_cpu_share")
        return f"{_cpu(results, workload, subject)} ({100 * share:.0f} %)"

    columns = [(w, busy) for w in ("W1", "W2", "W3", "W5")]
    return markdown(["", *(w for w, _ in columns)], _rows(results, (*DEFAULT, *VARIANTS[2:]), columns))


def _growing(results: Results) -> str:
    axes: defaultdict[str, list[str]] = defaultdict(list)
    for name in GROUPS[GROWTH]:
        axes[WORKLOADS[name].axis].append(name)
    rows = []
    for names in axes.values():
        sizes = ", ".join(f"{WORKLOADS[name].size:,}" for name in names)
        costs = [_figure(results, name, OURS, "server_cpu_per_million") for name in names]
        floors = [_figure(results, name, FLOOR, "server_cpu_per_million") for name in names]
        cells = (f"{cost:.3f} ({cost / floor:.1f}×)" for cost, floor in zip(costs, floors, strict=True))
        rows.append([f"{results.workloads[names[0]]['what']}: {sizes}", ", ".join(cells)])
    return markdown(["", "CPU s per million deliveries, and times the floor's"], rows)


def _compared(results: Results, subjects: Sequence[str], titles: Sequence[str]) -> str:
    """Return a table with a column for each of some servers."""
    kinds: list[tuple[str, str, _Make]] = [
        ("lines a second to 100 members, one of whom sends (W1)", "W1", _lines),
        ("lines a second to 1,000 members, ten of whom send (W2)", "W2", _lines),
        ("lines a second in all, in 100 rooms of 10 (W3)", "W3", _lines),
        ("CPU seconds for a million deliveries, W1", "W1", _cpu),
        ("CPU seconds for a million deliveries, W2", "W2", _cpu),
        ("CPU seconds for a million deliveries, W3", "W3", _cpu),
        ("latency of ten lines a second to 1,000 members (W4), p50 and p99 ms", "W4", _latency),
        ("latency of a thousand lines a second in 100 rooms of 10 (W5), p50 and p99 ms", "W5", _latency),
    ]
    rows = [[what, *(_cell(make, results, workload, s) for s in subjects)] for what, workload, make in kinds]
    return markdown(["", *titles], rows)


def _speed(results: Results) -> str:
    ours, json, redis = (
        _short(_figure(results, "W3", s, "deliveries_per_second") / 1e6) for s in (OURS, JSON, "redis")
    )
    return (
        f"On one core, the server delivers {ours} million lines a second to text members in rooms of ten, "
        f"and {json} million to JSON members. These members send as fast as they can, so lines travel in batches. "
        f"In the same test, Redis pub/sub delivers {redis} million."
    )


_TABLES: Final[dict[str, Callable[[Results], str]]] = {
    "run": _measured,
    "main": _main,
    "variants": _variants,
    "cpu": _seconds,
    "growth": _growing,
    "store": lambda results: _compared(
        results, [OURS, f"{OURS}-store-normal", f"{OURS}-store-full"], ["no store", "normal", "full"]
    ),
    "redis": lambda results: _compared(results, [OURS, REDIS], ["one server", "two servers and Redis"]),
    "speed": _speed,
}
NAMES: Final = tuple(_TABLES)
"""The tables that the pages must have."""
