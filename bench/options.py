"""What was asked for on the command line, and what a study does with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags. A study that has no use for one ignores it."""

    workloads: tuple[str, ...] = ()
    """Names of workloads; empty for all."""
    only: tuple[str, ...] = ()
    """Names of subjects; empty for the study's own choice."""
    runs: int = 3
    """How often each is measured."""
    seconds: float = 3
    """How long the load of one run lasts."""
    scale: float = 1
    """This part of the rooms and members, to try it out."""
    folder: Path = field(default=Path("bench-results"))
    """Where results.json and results.png go."""
    command: str = "python -m bench"
    """All of it as it was written."""
