"""The six workloads, and the study that runs them: all subjects in turns, so that none has better weather."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from typing import Final

from . import machine, picture, report
from .load import Load
from .options import Options
from .progress import Progress
from .report import Column, Results, Run
from .servers import Failure, measure
from .subjects import DEFAULT, FLOOR, SUBJECTS, Subject, floor

_STARTING_AND_ENDING: Final = 2.0
"""Seconds, about, that a run takes besides its load."""


@dataclass(frozen=True)
class Workload:
    """A load with a name, and what is looked at in it."""

    name: str
    what: str
    load: Load
    floor: str
    """Which of the two floors it is compared with: a saturated server batches, one that is not sends line by line."""
    columns: tuple[Column, ...]


_CORES: Final = (
    Column("server's core", lambda f: 100 * f.server_cpu_share, "{:.0f} %"),
    Column("load's core", lambda f: 100 * f.generator_cpu_share, "{:.0f} %"),
)
_FAULTS: Final = (
    Column("lost", lambda f: f.lost, "{:,.0f}", worst=True),
    Column("doubled or late", lambda f: f.disordered, "{:,.0f}", worst=True),
    Column("disconnects", lambda f: f.disconnects, "{:,.0f}", worst=True),
)
_CPU: Final = Column("CPU s per million", lambda f: f.server_cpu_per_million, "{:.3f}", ratio=True)
_SATURATED: Final = (
    Column("deliveries/s", lambda f: f.deliveries_per_second, "{:,.0f}", ratio=True),
    _CPU,
    *_CORES,
    *_FAULTS,
)
_LATENCY: Final = (
    Column("p50 µs", lambda f: f.latency_p50, "{:,.0f}", ratio=True),
    Column("p99 µs", lambda f: f.latency_p99, "{:,.0f}", ratio=True),
    Column("p99.9 µs", lambda f: f.latency_p999, "{:,.0f}"),
    Column("max µs", lambda f: f.latency_max, "{:,.0f}"),
    _CPU,
    *_CORES,
    *_FAULTS,
)
_AT_REST: Final = (
    Column("bytes each", lambda f: f.bytes_per_connection, "{:,.0f}", ratio=True),
    Column("connects/s", lambda f: f.connects_per_second, "{:,.0f}", ratio=True),
    Column("disconnects", lambda f: f.disconnects, "{:,.0f}", worst=True),
)

WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload(
            "W1",
            "one room of 100, one talks as fast as it can",
            Load(members=100, window=256),
            "batch",
            _SATURATED,
        ),
        Workload(
            "W2",
            "one room of 1,000, ten talk as fast as they can",
            Load(members=1000, talkers=10, window=16),
            "batch",
            _SATURATED,
        ),
        Workload(
            "W3",
            "100 rooms of 10, one talks in each as fast as it can",
            Load(rooms=100, members=10, window=64),
            "batch",
            _SATURATED,
        ),
        Workload(
            "W4",
            "one room of 1,000, ten lines a second in all",
            Load(members=1000, talkers=10, rate=10),
            "line",
            _LATENCY,
        ),
        Workload(
            "W5",
            "100 rooms of 10, a thousand lines a second in all",
            Load(rooms=100, members=10, rate=1000),
            "line",
            _LATENCY,
        ),
        Workload(
            "W6",
            "10,000 members in 1,000 rooms say nothing",
            Load(rooms=1000, members=10, talkers=0),
            "batch",
            _AT_REST,
        ),
    )
}


def chosen(options: Options) -> list[Workload]:
    """The workloads that were asked for, at the size and length that was asked for."""
    names = options.workloads or tuple(WORKLOADS)
    return [_sized(WORKLOADS[name], options) for name in names]


def _sized(workload: Workload, options: Options) -> Workload:
    load = dataclasses.replace(workload.load, seconds=options.seconds)
    if options.scale == 1:
        return dataclasses.replace(workload, load=load)
    load = dataclasses.replace(
        load,
        rooms=max(1, round(load.rooms * options.scale)),
        members=max(load.talkers + 1, round(load.members * options.scale)),
    )
    what = f"{workload.what} (here: {load.rooms} of {load.members})"
    return dataclasses.replace(workload, what=what, load=load)


def subjects_for(options: Options) -> list[Subject]:
    """Those that were asked for, the floor always before them, since all is compared with it."""
    names = options.only or DEFAULT
    return [SUBJECTS[name] for name in dict.fromkeys((FLOOR, *names))]


def run(options: Options) -> int:
    """Measure, then print the table and write the results and the picture; returns the program's exit code."""
    workloads, subjects = chosen(options), subjects_for(options)
    results = Results(
        {**machine.description(), "command": options.command},
        {s.name: report.describe(s) for s in subjects},
        {w.name: report.Part(w.what, w.load, w.columns) for w in workloads},
    )
    try:
        _measure_all(options.runs, workloads, subjects, results)
    except KeyboardInterrupt:
        results.interrupted = True
        if not results.runs:
            return 130  # what an earlier run left in the folder stays
    sys.stdout.write(report.page(results))
    sys.stdout.flush()
    report.write_json(results, options.folder / "results.json")
    sys.stderr.write(f"figures of every run: {options.folder / 'results.json'}\n")
    sys.stderr.write(f"{picture.of_workloads(results, options.folder / 'results.png')}\n")
    return 130 if results.interrupted else 0


def _measure_all(runs: int, workloads: list[Workload], subjects: list[Subject], results: Results) -> None:
    present = [subject for subject in subjects if not subject.missing()]
    each = sum(w.load.seconds for w in workloads) / len(workloads) + _STARTING_AND_ENDING
    progress = Progress(runs * len(workloads) * len(present), each)
    failed: set[tuple[str, str]] = set()
    try:
        for turn in range(1, runs + 1):
            for workload in workloads:
                for subject in present:
                    if (workload.name, subject.name) in failed:
                        progress.skip()
                        continue
                    progress.run(f"{workload.name} on {subject.name}")
                    result = measure(floor(workload.floor) if subject.name == FLOOR else subject, workload.load)
                    results.runs.append(Run(workload.name, subject.name, turn, result))
                    if isinstance(result, Failure):
                        failed.add((workload.name, subject.name))
    finally:
        progress.end()
