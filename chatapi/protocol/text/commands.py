"""The commands of the text protocol, as data: their names, arguments and effects."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple


class Spec(NamedTuple):
    """One command. `takes` is what it needs after its name; square brackets in it mean that it may be left out."""

    name: str
    aliases: tuple[str, ...]
    takes: str
    help: str

    @property
    def usage(self) -> str:
        """How it is typed."""
        return f"/{self.name} {self.takes}".rstrip()


TABLE: Final = (
    Spec("username", ("nick",), "NAME", "change your name"),
    Spec("msg", (), "NAME TEXT", "send a text to NAME only; @NAME TEXT does the same"),
    Spec("list", ("who",), "", "list the members of this room"),
    Spec("rooms", (), "", "list the open rooms"),
    Spec("join", (), "ROOM", "move to another room"),
    Spec("history", (), "[N]", "show the last N messages (20 if N is left out)"),
    Spec("bye", ("quit",), "", "leave the chat"),
    Spec("help", (), "", "list the commands"),
)
"""Every command, in the order in which `/help` shows them."""

_BY_WORD: Final = MappingProxyType({word: spec for spec in TABLE for word in (spec.name, *spec.aliases)})


class Command(NamedTuple):
    """A command that somebody typed, well formed."""

    name: str
    """Its name in `TABLE`, whichever alias was typed."""
    argument: str
    """What came after it, stripped; for `msg` the name, with the text in `text`."""
    text: str = ""


class BadCommand(NamedTuple):
    """A command that cannot be carried out, with what its sender is told."""

    why: str


def parse_command(line: str) -> Command | BadCommand:
    """The command in a line that starts with one ``/`` or ``@``."""
    word, argument = _first_word(line[1:]) if line[0] == "/" else ("msg", line[1:].strip())
    spec = _BY_WORD.get(word.lower())
    if spec is None:
        return BadCommand(f"there is no command /{word[:32]}; /help lists them, and //{word[:32]} sends it as text")
    text = ""
    if spec.name == "msg":
        argument, text = _first_word(argument)
        if not argument or not text:
            return BadCommand("a whisper needs a name and a text: @NAME TEXT")
    elif spec.takes and not argument and not spec.takes.startswith("["):
        return BadCommand(f"/{word} needs {spec.takes}: {spec.usage}")
    elif argument and not spec.takes:
        return BadCommand(f"/{word} takes no argument; //{word} sends the line as text")
    return Command(spec.name, argument, text)


def _first_word(text: str) -> tuple[str, str]:
    words = text.split(None, 1)
    if not words or text[0].isspace():
        return "", text.strip()
    return words[0], words[1].strip() if len(words) > 1 else ""


def help_lines() -> list[str]:
    """What `/help` answers."""
    lines = []
    for spec in TABLE:
        also = f" (also /{', /'.join(spec.aliases)})" if spec.aliases else ""
        lines.append(f"{spec.usage:<16} {spec.help}{also}")
    return [*lines, f"{'//TEXT, @@TEXT':<16} send a line that starts with / or @"]
