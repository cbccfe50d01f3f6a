"""The command ``python -m chatapi.testing.conformance``: puts a client in any language through all cases."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Final

from .cases import CASES as ON_ONE_CONNECTION
from .lost_connections import CASES as OVER_CONNECTIONS
from .run import Case, Run
from .script import Failed

CASES: Final = (*ON_ONE_CONNECTION, *OVER_CONNECTIONS)
"""All cases, in the order in which they run."""

_EPILOG: Final = """\
The command is started once for each case, with three more arguments: HOST:PORT, NAME and ROOM. It joins the room with
the JSON protocol. It sends each line of its standard input as a message, and prints each message of another member as
NAME:TEXT. When its input has ended and everything is answered, it says goodbye and ends with code 0, or with 1 if a
message was refused or its outcome is unknown. If the server sends it away for good, it ends with code 1. The page
"Write a client" has the details.

example:
  python -m chatapi.testing.conformance -- node examples/clients/client.mjs
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m chatapi.testing.conformance",
        description="Put a client in any language through the cases that a client of the JSON protocol must pass.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    names = ", ".join(case.name for case in CASES)
    only, seconds = f"cases, with commas: {names}", "for each step of the client (default 30)"
    parser.add_argument("-only", "--only", metavar="NAMES", type=_cases, default=CASES, help=only)
    parser.add_argument("-timeout", "--timeout", metavar="SECONDS", type=float, default=30, help=seconds)
    parser.add_argument("-list", "--list", action="store_true", help="show the cases and exit")
    parser.add_argument("command", metavar="COMMAND", nargs="*", help="the client, with its own arguments")
    return parser


def _cases(names: str) -> tuple[Case, ...]:
    by_name = {case.name: case for case in CASES}
    if missing := [name for name in names.split(",") if name not in by_name]:
        raise argparse.ArgumentTypeError(f"no case is called {missing[0]!r}")
    return tuple(by_name[name] for name in names.split(","))


def check(case: Case, command: Sequence[str], timeout: float) -> Failed | None:
    """Put a client through one case; return what was wrong, or None."""
    try:
        with Run(command, timeout) as run:
            case.script(run)
    except Failed as failed:
        return failed
    return None


def run_cases(cases: Sequence[Case], command: Sequence[str], timeout: float, write: Callable[[str], None]) -> bool:
    """Run the cases, and write a line for each; return whether all have passed."""
    width = max(len(case.name) for case in cases)
    wrong = []
    for number, case in enumerate(cases, 1):
        write(f"{number:2}/{len(cases)}  {case.name:{width}}  ")
        failed = check(case, command, timeout)
        write("pass\n" if failed is None else f"FAIL  {case.rule}\n")
        if failed is None:
            continue
        wrong.append(case.name)
        write(f"       expected: {failed.expected}\n       seen:     {failed.seen}\n")
        if case is CASES[0]:
            write("The other cases need this one, so they were not run.\n")
            return False
    write(f"{len(cases) - len(wrong)} of {len(cases)} passed{'; failed: ' if wrong else ''}{', '.join(wrong)}\n")
    return not wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser()
    given = parser.parse_args(arguments)
    if given.list:
        for case in CASES:
            _write(f"{case.name:18} {case.rule}\n")
        return 0
    if not given.command:
        parser.error("the command of the client is missing")
    try:
        return 0 if run_cases(given.only, given.command, given.timeout, _write) else 1
    except OSError as error:
        parser.exit(2, f"{parser.prog}: cannot start {given.command[0]!r}: {error.strerror}\n")


def _write(text: str) -> None:
    encoding = sys.stdout.encoding
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
