"""The tables of the documentation that restate the code: written from the code, and checked against it.

    python tests/support/doc_tables.py            write them into the pages
    python tests/support/doc_tables.py --check    only say what is wrong

A table stands between two comments: ``<!-- table: NAME -->`` and ``<!-- end -->``. The code gives its rows, their order
and some of its columns; the other columns are written by hand, in the page, and belong to the row with the same first
column. After a change of the code, run the first line above, and write the cells that it asks for.
"""

from __future__ import annotations

import argparse
import re
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import doc_rows
from doc_rows import Row
from pages import DOCS, ROOT, plain, rows_of

import chatapi


def exactly(cell: str) -> str:
    return cell


def without_words(cell: str) -> str:
    """A line with gaps as the code has it: in a page, words in capitals stand for the gaps."""
    return re.sub(r"\b[A-Z]{2,}\b(?<!SQL)", "%s", plain(cell).replace("`", ""))


@dataclass(frozen=True)
class Table:
    heading: tuple[str, ...]
    rows: Callable[[], list[Row]]
    """What the code knows of each row, always with the first column."""
    key: Callable[[str], str] = exactly
    """Makes the first cells of the same row in the page and in the code equal."""
    sorted_by_hand: bool = False
    """Whether the order of the rows is that of the page."""
    optional: tuple[str, ...] = ()
    """Columns whose cells may be empty."""


def verb(cell: str) -> str:
    """The name of a call that is shown with its arguments."""
    shown = re.match(r"`await room\.(\w+)\(", cell)
    return shown[1] if shown else cell


TABLES = {
    "server flags": Table(("flag", "variable", "default", "meaning"), doc_rows.server_flags),
    "client flags": Table(("flag", "default", "meaning"), doc_rows.client_flags),
    "limits": Table(("flag", "default", "unit", "allowed", "meaning"), doc_rows.every_limit),
    "fixed": Table(("what", "value"), doc_rows.what_is_fixed),
    "keep": Table(("field", "default", "meaning"), doc_rows.fields_of_keep),
    "sub-commands": Table(("sub-command", "what it does", "beside a server"), doc_rows.sub_commands),
    "sync": Table(
        ("`-store-sync`", "the server is killed", "power fails, or the system crashes"), doc_rows.ways_to_sync
    ),
    "redis times": Table(("for", "what happens"), doc_rows.times_of_redis),
    "handshake": Table(("field", "type", "default", "meaning"), doc_rows.fields_of_handshake),
    "resume": Table(("field of `resume`", "default", "meaning"), doc_rows.fields_of_resume),
    "commands": Table(("command", "alias", "effect"), doc_rows.every_command),
    "refusals": Table(("code", "when", "what to do"), doc_rows.refusals),
    "frame errors": Table(("code", "when", "carries"), doc_rows.frame_errors),
    "disconnects": Table(("code", "detail", "reconnect", "after", "today"), doc_rows.disconnects),
    "gaps": Table(("reason", "when"), doc_rows.reasons_for_a_gap, sorted_by_hand=True),
    "frames from the client": Table(("from the client", "fields", "effect", "answer"), doc_rows.frames_from_the_client),
    "frames from the server": Table(
        ("from the server", "fields", "meaning"), doc_rows.frames_from_the_server, sorted_by_hand=True
    ),
    "events": Table(("event", "fields", "meaning"), lambda: doc_rows.events_of(chatapi.Event)),
    "client events": Table(
        ("event", "fields", "meaning"), lambda: doc_rows.events_of(chatapi.News, without=typing.get_args(chatapi.Event))
    ),
    "connect": Table(("argument", "default", "meaning"), doc_rows.arguments_of_connect),
    "calls": Table(("call", "returns", "effect"), doc_rows.calls_of_a_connection, key=verb, optional=("returns",)),
    "hooks": Table(("hook", "gets", "returns", "can raise"), doc_rows.hooks, optional=("can raise",)),
    "views": Table(("name", "has"), doc_rows.views),
    "examples": Table(("program", "what it is"), doc_rows.examples),
    "samples": Table(("sample", "what it is"), doc_rows.samples, sorted_by_hand=True),
    "cases": Table(("case", "what a client must do"), doc_rows.cases),
    "log": Table(("message", "level", "when"), doc_rows.log_lines, key=without_words, sorted_by_hand=True),
    "store errors": Table(
        ("error", "what to do"), doc_rows.errors_of_the_store, key=without_words, sorted_by_hand=True
    ),
    "folders": Table(("folder", "may import"), doc_rows.folders),
    "modules": Table(("module", "what it is"), doc_rows.modules),
}
"""Every table, by the name that its page has for it."""

MARKED = re.compile(r"<!-- table: ([\w -]+?) -->\n\n(.*?)\n*<!-- end -->", re.DOTALL)


def made(name: str, page: str, before: str) -> tuple[str, list[str]]:
    """A table as it should be, from the code and from what the page has; and what somebody has to write."""
    table = TABLES[name]
    first = table.heading[0]
    by_hand = {table.key(row[first]): row for row in rows_of(before.splitlines())} if before else {}
    from_code = {table.key(row[first]): row for row in table.rows()}
    if table.sorted_by_hand:
        from_code = {key: from_code[key] for key in [*by_hand, *from_code] if key in from_code}
    missing, rows = [], []
    for key, known in from_code.items():
        written = by_hand.get(key, {})
        row = {column: known.get(column, written.get(column, "")) for column in table.heading}
        if written:
            row[first] = written[first] if table.key is not exactly else known[first]
        elif table.key is not exactly:
            missing.append(f"{page}: write {known[first]} in full, in the table `{name}`")
        missing += [
            f"{page}: write the column {column!r} for {row[first]}, in the table `{name}`"
            for column in table.heading[1:]
            if not row[column] and column not in known and column not in table.optional
        ]
        rows.append(row)
    lines = [
        f"| {' | '.join(cells)} |".replace("|  ", "| ") for cells in (table.heading, *(row.values() for row in rows))
    ]
    lines.insert(1, "|---" * len(table.heading) + "|")
    return "\n".join(lines), missing


def renewed(page: str, text: str) -> tuple[str, list[str]]:
    """A page with all of its tables as they should be, and what somebody has to write in it."""
    missing: list[str] = []

    def table(match: re.Match[str]) -> str:
        lines, more = made(match[1], page, match[2])
        missing.extend(more)
        return f"<!-- table: {match[1]} -->\n\n{lines}\n\n<!-- end -->"

    return MARKED.sub(table, text), missing


def pages_with_tables() -> list[Path]:
    return [path for path in sorted(DOCS.rglob("*.md")) if MARKED.search(path.read_text(encoding="utf-8"))]


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the tables of the documentation from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; say what is wrong")
    check = parser.parse_args().check
    wrong = []
    for path in pages_with_tables():
        name, text = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
        new, missing = renewed(name, text)
        wrong += missing
        if new != text and check:
            wrong.append(f"{name} is not what the code says: run `python tests/support/doc_tables.py`")
        elif new != text:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"{name}: written\n")
    sys.stdout.writelines(f"{line}\n" for line in wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
