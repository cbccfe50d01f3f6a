"""How long does the chat keep an embedding program's event loop from the program's other tasks?"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from . import machine
from .load import Figures, Load
from .options import Options
from .report import markdown, spread
from .servers import Failure, attempt
from .study import STARTING_AND_ENDING, Found, Key, in_turns, publish
from .subjects import SUBJECTS, Subject

LOOPS: Final = {"machat-asyncio": "asyncio", "machat-uvloop": "uvloop", "machat-trio": "trio"}
ALONE: Final = "nothing to do: there is no chat"
_ABOUT: Final = """\
A task beside the chat sleeps for a millisecond, again and again; this is how much later than asked it went on, in
microseconds: of each run the median, 99 %, 99.9 % and the longest, and of those the median of the runs (with the
lowest and the highest). How finely an event loop's own timers go is a part of it, as the first rows show.

"""


@dataclass(frozen=True)
class Lateness:
    """How late the task beside the chat was, in microseconds."""

    count: int
    """How often it went on."""
    p50: float
    p99: float
    p999: float
    longest: float


@dataclass(frozen=True)
class Observed:
    """What came of one run."""

    late: dict[str, Lateness]
    """While the members were arriving, there, leaving; what nothing was noted in is left out."""
    load: Figures | None


def situations(options: Options) -> dict[str, Load | None]:
    """What the chat does meanwhile; None is no chat at all."""
    thousand, thousands = (max(2, round(members * options.scale)) for members in (1000, 9000))
    seconds = options.seconds
    return {
        ALONE: None,
        f"{thousand:,} members at rest": Load(members=thousand, talkers=0, seconds=seconds),
        f"{thousand:,} members, ten talk as fast as they can": Load(
            members=thousand, talkers=min(10, thousand), window=16, seconds=seconds
        ),
        f"{thousands:,} members, a line each half second": Load(members=thousands, rate=2, seconds=seconds),
    }


def run(options: Options) -> int:
    """Measure on each event loop; returns the program's exit code."""
    subjects = [SUBJECTS[name] for name in options.only or LOOPS if name in LOOPS]
    if not subjects:
        sys.stderr.write(f"python -m bench embedding: it is about {', '.join(LOOPS)}\n")
        return 2
    asked = situations(options)
    jobs: dict[Key, Callable[[], Observed | Failure]] = {
        (what, s.name): partial(observe, s, load, options.seconds) for what, load in asked.items() for s in subjects
    }
    found = in_turns(options.runs, jobs, options.seconds + STARTING_AND_ENDING)
    loads = {what: load and dataclasses.asdict(load) for what, load in asked.items()}
    content = {"loads": loads, "runs": found.runs("situation")}
    shown = [dataclasses.replace(s, command=_command(s.name, "FILE", "MEMBERS")) for s in subjects]
    crowd = list(asked)[-1:]
    sections = {
        "how long other tasks wait": _ABOUT + _table(list(asked), subjects, found, "there"),
        "while these come in": _table(crowd, subjects, found, "arriving"),
        "while these leave, all at once": _table(crowd, subjects, found, "leaving"),
    }
    return publish(options, "embedding", shown, sections, content, interrupted=found.interrupted)


def observe(subject: Subject, load: Load | None, seconds: float) -> Observed | Failure:
    """Run the program with the chat under a load, or without a chat for so many seconds."""
    file = machine.scratch() / "late.json"
    file.unlink(missing_ok=True)
    arguments = (str(load.connections),) if load else ("0", "alone")
    program = dataclasses.replace(subject, command=_command(subject.name, str(file), *arguments))
    figures = attempt(program, lambda server: server.run(load) if load else time.sleep(seconds))
    if isinstance(figures, Failure):
        return figures
    try:
        late = json.loads(file.read_text())
    except OSError as problem:
        return Failure(f"the program did not end in good order: {problem}")
    return Observed({period: _lateness(values) for period, values in late.items() if values}, figures)


def _command(subject: str, file: str, *arguments: str) -> tuple[str, ...]:
    return ("python", "-m", "bench.beside", LOOPS[subject], file, "{port}", *arguments)


def _lateness(seconds: Sequence[float]) -> Lateness:
    ordered = sorted(1e6 * value for value in seconds)
    p50, p99, p999 = (ordered[int(part * len(ordered))] for part in (0.5, 0.99, 0.999))
    return Lateness(len(ordered), p50, p99, p999, ordered[-1])


def _table(asked: Sequence[str], subjects: Sequence[Subject], found: Found[Observed | Failure], period: str) -> str:
    titles = ["the chat has", "server", "turns", "p50", "p99", "p99.9", "longest", "deliveries/s", "lost"]
    rows = []
    for what in asked:
        for subject in subjects:
            results = found.of(what, subject.name).values()
            observed = [r for r in results if isinstance(r, Observed) and period in r.late]
            reasons = [r.reason for r in results if isinstance(r, Failure)]
            cells = _cells(observed, period) if observed else [*reasons, "not measured"][:1]
            rows.append([what, subject.name, *cells])
    return markdown(titles, rows, words=2)


def _cells(observed: Sequence[Observed], period: str) -> list[str]:
    late = [result.late[period] for result in observed]
    loads = [result.load for result in observed if result.load is not None and period == "there"]
    return [
        spread([one.count for one in late]),
        spread([one.p50 for one in late]),
        spread([one.p99 for one in late]),
        spread([one.p999 for one in late]),
        spread([one.longest for one in late]),
        spread([load.deliveries_per_second for load in loads]) if loads else "",
        f"{max(load.lost for load in loads):,}" if loads else "",
    ]
