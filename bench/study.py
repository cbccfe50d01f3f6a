"""What the smaller studies share: runs in turns, tables, and where results go."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from . import machine, report
from .options import Options
from .progress import Progress
from .subjects import Subject

_T = TypeVar("_T")
Key = tuple[str, ...]
"""What a run is about: its load and its server, say."""
STARTING_AND_ENDING = 1.5
"""Seconds, about, that a run takes besides its load."""


@dataclass
class Found(Generic[_T]):
    """What came of each run, by what it was about and by turn."""

    results: dict[Key, dict[int, _T]] = field(default_factory=dict)
    interrupted: bool = False

    def of(self, *key: str) -> dict[int, _T]:
        """The results of one job, by turn."""
        return self.results.get(key, {})

    def runs(self, what: str, flat: Callable[[_T], Mapping[str, Any]] = report.flat) -> list[dict[str, Any]]:
        """Every run, for JSON: `what` it was about, the server, the turn, and the result made `flat`."""
        return [
            {what: about, "subject": subject, "turn": turn, **flat(result)}
            for (about, subject), results in self.results.items()
            for turn, result in results.items()
        ]


def in_turns(runs: int, jobs: Mapping[Key, Callable[[], _T]], seconds: float) -> Found[_T]:
    """Do all jobs, and all again, so that none has better weather; `seconds` is what one takes, about."""
    found: Found[_T] = Found()
    progress = Progress(runs * len(jobs), seconds)
    try:
        for turn in range(1, runs + 1):
            for key, job in jobs.items():
                progress.run(" on ".join(key))
                found.results.setdefault(key, {})[turn] = job()
    except KeyboardInterrupt:
        found.interrupted = True
    finally:
        progress.end()
    return found


def publish(
    options: Options,
    name: str,
    subjects: Sequence[Subject],
    sections: Mapping[str, str],
    content: Mapping[str, Any],
    *,
    interrupted: bool = False,
) -> int:
    """Write the page, each section under its title, and NAME.json; returns the program's exit code."""
    measured_on = {**machine.description(), "command": options.command}
    about = {subject.name: report.describe(subject) for subject in subjects}
    lines = [report.heading(f"Benchmark: {name}", measured_on, about)]
    lines += [f"## {title}\n\n{text}" for title, text in sections.items()]
    if interrupted:
        lines.append("Interrupted: this is what was measured until then.\n")
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()
    path = options.folder / f"{name}.json"
    whole = {"machine": measured_on, "subjects": about, **content, "interrupted": interrupted}
    path.write_text(json.dumps(whole, indent=1) + "\n")
    sys.stderr.write(f"figures of every run: {path}\n")
    return 130 if interrupted else 0
