"""Command lines as Go writes them: flags with one dash or two, one clear line for an error, an exit code."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from chatapi.text import one_line


class Parser(argparse.ArgumentParser):
    """A parser that accepts one dash or two, as Go does, and suggests the nearest flag for an unknown one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            add_help=False, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options
        )
        self.flag("-h", "-help", dest="help", action="help", help="show this help and exit")

    def flag(self, *names: str, to: argparse._ActionsContainer | None = None, **options: Any) -> None:
        """Add a flag; ``-name`` can also be written as ``--name``."""
        both = [spelled for name in names for spelled in (name, f"-{name}")]
        (to or self).add_argument(*both, **options)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        """Return the arguments; if they are wrong, end the program with code 2 and one line."""
        arguments = sys.argv[1:] if arguments is None else arguments
        for argument in arguments:
            if argument == "--":
                break  # no flags follow
            name = argument.partition("=")[0]
            is_flag = len(name) > 1 and name[0] == "-" and not name[1].isdigit()
            if is_flag and name not in self._option_string_actions:
                near = difflib.get_close_matches(name, self._option_string_actions, 1)
                self.error(f"there is no flag {name}" + (f"; did you mean {near[0]}?" if near else ""))
        return self.parse_args(arguments)

    def error(self, message: str) -> NoReturn:
        """End the program with code 2 and one line."""
        fail(self.prog, f"{message} (-h shows the usage)")


def fail(prog: str, message: str) -> NoReturn:
    """End the program with code 2 and one line, because its arguments are wrong."""
    print(f"{prog}: {one_line(message)}", file=sys.stderr)  # noqa: T201
    raise SystemExit(2)


def interrupted() -> int:
    """Return the exit code after Ctrl-C; on a terminal, end the line that shows the ^C."""
    if sys.stderr is not None and sys.stderr.isatty():
        print(file=sys.stderr)  # noqa: T201
    return 130
