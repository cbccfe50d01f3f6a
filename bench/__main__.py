"""The command line: `python -m bench`, from the project's folder.

How the pieces fit, for who adds a study:

- `subjects.Subject` is a server that can be measured: its name, command, version and `load.Protocol` (templates).
  `subjects.SUBJECTS` has them all by name; `subjects.executable(*flags)` and `subjects.embedded(backend)` make commands
  for variants of this server; `subjects.floor("batch" or "line")` is the machine's limit.
- `load.Load` says what members do, and `load.run_load(load, protocol, port, pids)` has them do it: `load.Figures`.
- `servers.running(subject)` is a server as a context manager, with `server.run(load)`, `server.pids` and
  `server.port`; `servers.measure(subject, load)` does all of it once, and makes a `servers.Failure` of what goes wrong.
- `report.table(columns, rows)` makes Markdown of it, `report.Results`, `report.page` and `report.write_json` whole
  results; `picture.style()` gives a picture the look of the others.
- `progress.Progress` tells how far one is.

A study is a module with `run(options) -> exit code`, and stands in `STUDIES`.
"""

from __future__ import annotations

import importlib
import shlex
import signal
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final

from chatapi.cli.flags import Parser

from . import machine, report, servers
from .options import Options
from .subjects import OURS, SUBJECTS
from .workloads import WORKLOADS

STUDIES: Final = {
    "workloads": "the six workloads, against other servers (what is run where nothing is named)",
    "growth": "whether cost grows faster than the work: members, rooms, line sizes, senders",
    "embedding": "how long the chat keeps an embedding program's event loop from other tasks",
    "start": "how long the server takes until it is there, and what it imports",
    "lag": "what members that stop reading cost the others, the server and the machine",
    "storm": "how fast thousands of dropped members are back, each where it was",
    "memory": "whether memory ends where it began, after thousands of joins, leaves and lines",
    "nodes": "what two servers and one Redis carry, and what each part takes for it",
}
"""Name of each study, which is also its module's, and what it shows."""
_ABOUT_US: Final = ("embedding", "start", "lag", "storm", "memory", "nodes")
"""Those that have nothing to do with other servers."""

_EXAMPLES: Final = """\
examples:
  python -m bench                                       everything there is
  python -m bench -w W1,W2 -only machat,redis -n 5      two workloads, two servers, five runs of each
  python -m bench -only machat,machat-asyncio,machat-trio,machat-json
  python -m bench -scale 0.02 -seconds 0.2 -n 1         small and short, to see that it works
  python -m bench -list                                 what can be measured, and what of it is installed
"""


def build_parser() -> Parser:
    """Every flag."""
    studies = "\n".join(f"  {name:12} {what}" for name, what in STUDIES.items())
    parser = Parser(
        prog="python -m bench",
        description=f"How fast the server is, on this machine.\n\nstudies:\n{studies}",
        epilog=_EXAMPLES,
    )
    parser.add_argument("study", nargs="?", default="workloads", metavar="STUDY", help="which one (default workloads)")
    parser.flag("-w", metavar="NAMES", help=f"workloads, with commas, of {', '.join(WORKLOADS)} (default all)")
    parser.flag("-only", metavar="NAMES", help="servers, with commas, or all (default: ours and others')")
    parser.flag("-n", metavar="N", default="3", help="runs of each (default 3)")
    parser.flag("-seconds", metavar="S", default="3", help="length of one run (default 3)")
    parser.flag("-scale", metavar="PART", default="1", help="this part of the members and rooms (default 1)")
    parser.flag("-o", metavar="FOLDER", default="bench-results", help="where results go (default bench-results)")
    parser.flag("-list", action="store_true", help="show what can be measured, and exit")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a study; returns the exit code."""
    parser = build_parser()
    given = parser.parse(arguments)
    if given.study not in STUDIES:
        parser.error(f"there is no study {given.study!r}; there is {', '.join(STUDIES)}")
    options = Options(
        workloads=_names(parser, "-w", given.w, WORKLOADS),
        only=_names(parser, "-only", given.only, SUBJECTS),
        runs=int(_number(parser, "-n", given.n, 1, 1000, whole=True)),
        seconds=_number(parser, "-seconds", given.seconds, 0.1, 600),
        scale=_number(parser, "-scale", given.scale, 0.001, 1),
        folder=Path(given.o),
        command=shlex.join(["python", "-m", "bench", *(sys.argv[1:] if arguments is None else arguments)]),
    )
    if options.workloads and given.study != "workloads":
        parser.error(f"-w: {given.study} has no workloads")
    if given.study in _ABOUT_US:
        others = [name for name in options.only if name.partition("-")[0] != OURS]
        if others and given.only != "all":
            parser.error(f"-only: {given.study} is about this server, not {', '.join(others)}")
        options = replace(options, only=tuple(name for name in options.only if name not in others))
    if given.list:
        sys.stdout.write(_listing())
        return 0
    signal.signal(signal.SIGTERM, _interrupt)  # what was started is ended, however we are told to
    try:
        _check_folder(options.folder)
        machine.raise_descriptor_limit()
        machine.program("load")
        machine.program("floor")
        return int(importlib.import_module(f"bench.{given.study}").run(options))
    except machine.CannotMeasure as lack:
        sys.stderr.write(f"{parser.prog}: {lack}\n")
    except OSError as problem:
        sys.stderr.write(f"{parser.prog}: {problem}\n")
    except KeyboardInterrupt:
        return 130
    finally:
        servers.end_what_is_left()
    return 1


def _check_folder(folder: Path) -> None:
    """Make it, and see that files can be written there: now, not after a quarter of an hour."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as problem:
        raise machine.CannotMeasure(f"-o {folder}: cannot write there: {problem.strerror}") from problem


def _listing() -> str:
    lines = [f"{workload.name:20} {workload.what}" for workload in WORKLOADS.values()]
    for name, subject in SUBJECTS.items():
        about = report.describe(subject)
        lines.append(f"{name:20} {about['what']:45} {about['missing'] or about['version']}")
    return "\n".join(lines) + "\n"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _names(parser: Parser, flag: str, text: str | None, there_is: Collection[str]) -> tuple[str, ...]:
    if text is None:
        return ()
    if text == "all":
        return tuple(there_is)
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in there_is:
            parser.error(f"{flag}: there is no {name!r}; there is {', '.join(there_is)}")
    return names


def _number(parser: Parser, flag: str, text: str, low: float, high: float, *, whole: bool = False) -> float:
    try:
        number = int(text) if whole else float(text)
    except ValueError:
        parser.error(f"{flag}: {text!r} is not a {'whole ' if whole else ''}number")
    if not low <= number <= high:
        parser.error(f"{flag}: {text} is not from {low:g} to {high:g}")
    return number


if __name__ == "__main__":
    sys.exit(main())
