"""The command line: `python -m bench`, from the project's folder.

- `subjects` has the servers that can be measured, and the protocol of each (`load.Protocol`).
- `workloads` has the behaviour of the members (`load.Load`) and the kind of figures that matter.
- `measure` runs each workload on each server: `servers` starts one, `load` runs the load generator in C against it.
- `results` keeps the figures of all runs, `tables` shows them, and `picture` draws them.
- `publish` puts the tables and the pictures of one run into the documentation.
"""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from chatapi.cli.flags import Parser

from . import machine, picture, publish, servers, tables
from .measure import Options, measure
from .subjects import SUBJECTS
from .workloads import GROUPS, GROWTH, WORKLOADS

_EXAMPLES: Final = """\
examples:
  python -m bench                                       W1 to W6, this server and others
  python -m bench -w W1,W2 -only machat,redis -n 5      two workloads, two servers, five runs of each
  python -m bench -w growth                             whether cost grows faster than the work
  python -m bench -only machat,machat-asyncio,machat-trio,machat-json
  python -m bench -scale 0.02 -seconds 0.2 -n 1         small and short, to see that it works
  python -m bench -list                                 what can be measured, and what of it is installed
  python -m bench publish bench-results/results.json    put these results into the documentation
"""


def build_parser() -> Parser:
    """Return the parser with every flag."""
    parser = Parser(
        prog="python -m bench", description="Measure how fast the server is on this machine.", epilog=_EXAMPLES
    )
    parser.add_argument("publish", nargs="*", metavar="publish FILE", help="put results into the documentation")
    parser.flag("-w", metavar="NAMES", help=f"workloads, with commas: W1 to W6, {GROWTH}, all (default W1 to W6)")
    parser.flag("-only", metavar="NAMES", help="servers, with commas, or all (default: this one and others)")
    parser.flag("-full", metavar="NAMES", help="servers that get the whole time; the others a fifth (default all)")
    parser.flag("-n", metavar="N", default="3", help="runs of each (default 3)")
    parser.flag("-seconds", metavar="S", default="3", help="length of one run; latency: half of it (default 3)")
    parser.flag("-scale", metavar="PART", default="1", help="this part of the members and rooms (default 1)")
    parser.flag("-o", metavar="FOLDER", default="bench-results", help="where results go (default bench-results)")
    parser.flag("-list", action="store_true", help="show what can be measured, and exit")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or publish; returns the exit code."""
    parser = build_parser()
    given = parser.parse(arguments)
    if given.publish:
        if given.publish[0] != "publish" or len(given.publish) != 2:
            parser.error(f"expected nothing or `publish FILE`, not {shlex.join(given.publish)!r}")
        return publish.main(Path(given.publish[1]))
    options = Options(
        workloads=_names(parser, "-w", given.w or "", WORKLOADS, GROUPS),
        only=_names(parser, "-only", given.only, SUBJECTS),
        full=_names(parser, "-full", given.full, SUBJECTS),
        runs=int(_number(parser, "-n", given.n, 1, 1000, whole=True)),
        seconds=_number(parser, "-seconds", given.seconds, 0.1, 600),
        scale=_number(parser, "-scale", given.scale, 0.001, 1),
        folder=Path(given.o),
        command=shlex.join(["python", "-m", "bench", *(sys.argv[1:] if arguments is None else arguments)]),
    )
    if given.list:
        sys.stdout.write(_listing())
        return 0
    signal.signal(signal.SIGTERM, _interrupt)  # what was started is ended, however this program is told to end
    try:
        _check_folder(options.folder)
        machine.raise_descriptor_limit()
        machine.program("load")
        machine.program("floor")
        results = measure(options)
        if results.runs:
            sys.stdout.write(tables.everything(results))
            sys.stdout.flush()
            sys.stderr.write(f"figures of every run: {options.folder / 'results.json'}\n")
            for drawn in picture.draw(results, options.folder):
                sys.stderr.write(f"{drawn}\n")
        return 130 if results.interrupted else 0
    except (machine.CannotMeasure, OSError) as problem:
        sys.stderr.write(f"{parser.prog}: {problem}\n")
    except KeyboardInterrupt:
        return 130
    finally:
        servers.end_what_is_left()
    return 1


def _check_folder(folder: Path) -> None:
    """Make it, and check now, and not after a quarter of an hour, that files can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as problem:
        raise machine.CannotMeasure(f"-o {folder}: cannot write there: {problem.strerror}") from problem


def _listing() -> str:
    lines = [f"{name:20} {WORKLOADS[name].what}" for name in GROUPS[""]]
    lines.append(f"{GROWTH:20} {len(GROUPS[GROWTH])} loads, along four axes: members, rooms, bytes, senders")
    for name, subject in SUBJECTS.items():
        about = subject.description()
        lines.append(f"{name:20} {about['what']:45} {about['missing'] or about['version']}")
    return "\n".join(lines) + "\n"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _names(
    parser: Parser,
    flag: str,
    text: str | None,
    known: Iterable[str],
    groups: Mapping[str, Iterable[str]] | None = None,
) -> tuple[str, ...]:
    if text is None:
        return ()
    groups = groups or {"all": tuple(known)}
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in (*known, *groups):
            parser.error(f"{flag}: there is no {name!r}; there is {', '.join([*filter(None, groups), *known])}")
        names += groups.get(name, [name])
    return tuple(dict.fromkeys(names))


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
