"""Measuring: all servers one after the other, then all of them again, so that noise affects all of them equally."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from . import machine, servers
from .results import Failure, Results, Run
from .subjects import DEFAULT, FLOOR, OURS, SUBJECTS, Subject, floor
from .workloads import WORKLOADS, Workload, scaled

_STARTING_AND_ENDING: Final = 0.8
"""Seconds, about, that a run takes besides its load."""
_CONNECTS_PER_SECOND: Final = 5000
"""Connections a second, about."""
_BRIEF: Final = 0.2
"""The part of the time for which a server is measured that is not among those of `-full`."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for on the command line."""

    workloads: Sequence[str]
    only: Sequence[str] = ()
    """Names of servers; empty for this server and others'."""
    full: Sequence[str] = ()
    """Names of servers that are measured for all of the time; empty for all of them."""
    runs: int = 3
    seconds: float = 3
    scale: float = 1
    folder: Path = Path("bench-results")
    command: str = "python -m bench"
    """All of it, as it was written."""


@dataclass(frozen=True)
class Job:
    """One run that is to be done."""

    turn: int
    workload: Workload
    subject: Subject

    @property
    def seconds(self) -> float:
        """How long it takes, about."""
        load = self.workload.load
        return load.seconds + _STARTING_AND_ENDING + load.connections / _CONNECTS_PER_SECOND


def jobs(options: Options, subjects: Sequence[Subject]) -> Iterator[Job]:
    """Return all runs in their order.

    A server that is not among the full ones is measured in every second turn only, and so are the short workloads.
    """
    full = {FLOOR, *(options.full or SUBJECTS)}
    for turn in range(1, options.runs + 1):
        for name in options.workloads:
            for subject in subjects:
                brief = subject.name not in full
                if subject.missing() or not WORKLOADS[name].fits(subject):
                    continue
                if turn % 2 or not (brief or WORKLOADS[name].share < _BRIEF):
                    seconds = options.seconds * (_BRIEF if brief else 1)
                    yield Job(turn, scaled(WORKLOADS[name], seconds, options.scale), subject)


def measure(options: Options) -> Results:
    """Measure everything; results.json has the results so far, at any time. Ctrl-C ends it."""
    # the floor comes first, because all are compared with it
    subjects = [SUBJECTS[name] for name in dict.fromkeys((FLOOR, *(options.only or DEFAULT)))]
    if any(WORKLOADS[name].axis for name in options.workloads) and SUBJECTS[OURS] not in subjects:
        subjects.append(SUBJECTS[OURS])
    asked = [scaled(WORKLOADS[name], options.seconds, options.scale) for name in options.workloads]
    results = Results(
        {**machine.description(), "command": options.command},
        {subject.name: subject.description() for subject in subjects},
        {w.name: {"what": w.what, "load": dataclasses.asdict(w.load)} for w in asked},
    )
    path = options.folder / "results.json"
    todo = list(jobs(options, subjects))
    progress = Progress([job.seconds for job in todo])
    failed = set()
    try:
        for job in todo:
            workload, name = job.workload, job.subject.name
            progress.next(f"{workload.name} on {name}")
            if (workload.name, name) in failed:
                continue
            subject = floor(workload.floor) if name == FLOOR else job.subject
            result = servers.measure(subject, workload.load)
            results.runs.append(Run(workload.name, name, job.turn, result))
            if isinstance(result, Failure):
                failed.add((workload.name, name))
            results.write(path)
    except KeyboardInterrupt:
        results.interrupted = True
        if results.runs:  # otherwise the file of an earlier command stays
            results.write(path)
    finally:
        progress.end()
    return results


class Progress:
    """How far it is, on stderr: one line that is rewritten on a terminal, and a line for each run elsewhere."""

    def __init__(self, expected: Sequence[float], stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._expected = expected
        """Seconds that each run takes, about."""
        self._begun = 0
        self._start = time.monotonic()

    def next(self, what: str) -> None:
        """Say that the next run begins."""
        done, left = sum(self._expected[: self._begun]), sum(self._expected[self._begun :])
        pace = (time.monotonic() - self._start) / done if self._begun > 2 else 1
        self._begun += 1
        line = f"{self._begun} of {len(self._expected)}: {what}, about {_duration(left * pace)} left"
        self._stream.write(f"\r\x1b[K{line}" if self._stream.isatty() else f"{line}\n")
        self._stream.flush()

    def end(self) -> None:
        """Remove the line."""
        if self._stream.isatty():
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
