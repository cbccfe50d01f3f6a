"""What was measured: all figures of every run, in memory and as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .load import Figures


@dataclass(frozen=True)
class Failure:
    """Why there are no figures."""

    reason: str


@dataclass(frozen=True)
class Run:
    """One workload on one server, once."""

    workload: str
    subject: str
    turn: int
    result: Figures | Failure


@dataclass
class Results:
    """All that one command has measured."""

    machine: dict[str, str]
    """What a reader must know: date, processor, versions, command, commit."""
    subjects: dict[str, dict[str, str]]
    """Each server: what it is, its version and command, or what is missing."""
    workloads: dict[str, dict[str, Any]]
    """Each workload: what it is, and its load."""
    runs: list[Run] = field(default_factory=list)
    interrupted: bool = False

    def figures(self, workload: str, subject: str) -> list[Figures]:
        """Return the figures of all runs that came to an end."""
        return [run.result for run in self._of(workload, subject) if isinstance(run.result, Figures)]

    def median(self, workload: str, subject: str, figure: str) -> float | None:
        """Return the median of one figure, or None if it was not measured."""
        found = self.figures(workload, subject)
        return median(getattr(figures, figure) for figures in found) if found else None

    def failure(self, workload: str, subject: str) -> str:
        """Return why figures are missing, or nothing if none are."""
        reasons = [run.result.reason for run in self._of(workload, subject) if isinstance(run.result, Failure)]
        return reasons[0] if reasons else self.subjects.get(subject, {}).get("missing", "")

    def _of(self, workload: str, subject: str) -> list[Run]:
        return [run for run in self.runs if (run.workload, run.subject) == (workload, subject)]

    def write(self, path: Path) -> None:
        """Write everything as JSON, a line for each run."""
        head = {
            "machine": self.machine,
            "subjects": self.subjects,
            "workloads": self.workloads,
            "interrupted": self.interrupted,
        }
        runs = ",\n".join(json.dumps(_plain(run)) for run in self.runs)
        path.write_text(f'{json.dumps(head, indent=1)[:-2]},\n "runs": [\n{runs}\n]}}\n')

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` has written."""
        content = json.loads(path.read_text())
        return cls(**content | {"runs": [_run(**run) for run in content["runs"]]})


def _plain(run: Run) -> dict[str, Any]:
    result = {"failed": run.result.reason} if isinstance(run.result, Failure) else dataclasses.asdict(run.result)
    return {"workload": run.workload, "subject": run.subject, "turn": run.turn, **result}


def _run(workload: str, subject: str, turn: int, failed: str | None = None, **figures: Any) -> Run:
    return Run(workload, subject, turn, Figures(**figures) if failed is None else Failure(failed))
