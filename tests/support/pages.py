"""The pages of the documentation: their blocks of code, their tables, and their prose without either."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    body: str
    title: str = ""
    """The name of the file in which a reader saves it."""

    def __str__(self) -> str:
        return f"{self.page.removeprefix('docs/')}:{self.line}"


class Page:
    """One Markdown file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text(encoding="utf-8")
        self.blocks: list[Block] = []
        prose: list[str] = []
        lines = iter(enumerate(self.text.splitlines(), 1))
        for number, line in lines:
            if line.startswith("```"):
                body = "\n".join(text for _, text in takewhile(lambda item: item[1] != "```", lines)) + "\n"
                language, _, title = line[3:].partition(" title=")
                self.blocks.append(Block(self.name, number, language, body, title.strip('"')))
                prose.append("")
            else:
                prose.append(line)
        self.prose = "\n".join(prose)
        self.spans = re.findall(r"`([^`\n]+)`", self.prose)
        """What stands in backticks."""
        self.headings = [line.lstrip("# ") for line in prose if line.startswith("#")]

    def tables(self) -> Iterator[list[dict[str, str]]]:
        """Every table, as rows by the words of its heading."""
        for part in re.findall(r"(?:^\|.*\n)+", self.prose + "\n", re.MULTILINE):
            yield rows_of(part.splitlines())


def rows_of(lines: list[str]) -> list[dict[str, str]]:
    """The rows of one table, by the words of its heading."""
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


FILES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
PAGES = {
    page.name: page
    for page in map(Page, FILES)
    if page.path.name != "benchmarks.md"  # it is about other programs too, with their flags and names
}
BLOCKS = [block for page in PAGES.values() for block in page.blocks]
SPANS = [(page.name, span) for page in PAGES.values() for span in page.spans]


def table(*heading: str) -> list[dict[str, str]]:
    """The one table with this heading, on whichever page it is."""
    [found] = [rows for page in PAGES.values() for rows in page.tables() if rows and tuple(rows[0]) == heading]
    return found


def blocks(language: str, beginning: str = "") -> list[Block]:
    """The blocks of a language that begin so, on all pages."""
    return [block for block in BLOCKS if block.language == language and block.body.startswith(beginning)]


def plain(cell: str) -> str:
    """What stands in backticks in a cell."""
    return cell.strip("`")


def named(cell: str) -> list[str]:
    """The names in a cell that lists them."""
    return re.findall(r"`(\w+)`", cell)
