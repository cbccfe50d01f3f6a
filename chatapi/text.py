"""Rules for texts: length limit, UTF-8, removing control characters and closing bidirectional ones."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_CONTROLS: Final = bytes(c for c in range(0x20) if c not in b"\t\n") + b"\x7f"
_C1: Final = re.compile(rb"\xc2[\x80-\x9f]")  # the C1 controls in UTF-8, where 0xC2 can only be a first byte
_BLANK_LINES: Final = re.compile(rb"\n+")
_SEPARATORS: Final = ("\u2028".encode(), "\u2029".encode())
_END_EMBEDDING: Final = "\u202c".encode()
_END_ISOLATE: Final = "\u2069".encode()
_END_OF: Final = {
    **{begin.encode(): _END_EMBEDDING for begin in "\u202a\u202b\u202d\u202e"},
    **{begin.encode(): _END_ISOLATE for begin in "\u2066\u2067\u2068"},
}
"""The control that ends each bidirectional control that has an end (Unicode Standard Annex #9, sections 2.1 to 2.5)."""
_BEYOND_LINE: Final = re.compile(rb"\xe2[\x80\x81][\xa6-\xae](?<!\x80[\xa6\xa7])(?<!\x81[\xaa-\xae])")
"""U+2028 to 202E and U+2066 to 2069. There is no alternative (`|`) in it, because without one it passes over
typographic quotes, which begin with the same byte, twice as fast."""
_CONTROL: Final = re.compile(rb"\xe2(?:\x80[\xaa-\xae]|\x81[\xa6-\xa9])")
_FROM_CONTROL: Final = re.compile(rb"\xe2(?:\x80[\xaa\xab\xad\xae]|\x81[\xa6-\xa8])[^\n]*")


class Fault(NamedTuple):
    """The first line of a block that must be refused."""

    start: int
    end: int
    why: str


def find_fault(block: bytes, line_bytes: int) -> Fault | None:
    """Return the first line of `block` (whole lines, each with its line feed) that is too long or not UTF-8.

    A line's length counts what `close_lines` adds to it, so that no text is longer than `line_bytes` afterwards.
    """
    longest = len(block) - 1 if len(block) <= line_bytes + 1 else max(map(len, block.split(b"\n")))
    if longest <= line_bytes:
        if block.isascii():
            return None
        try:
            block.decode()
        except UnicodeDecodeError:
            pass
        else:
            if longest <= line_bytes // 2 or not _reaches_beyond(block):  # a line grows to twice its size at most
                return None
    start = 0
    for line in block.split(b"\n")[:-1]:
        end = start + len(line) + 1
        text = line.removesuffix(b"\r")
        if len(text) > line_bytes:
            return Fault(start, end, too_long(len(text), line_bytes))
        if len(text) + len(ends := _ends(text)) > line_bytes:
            return Fault(start, end, too_long(len(text) + len(ends), line_bytes, CLOSED))
        try:
            text.decode()
        except UnicodeDecodeError as error:
            return Fault(
                start,
                end,
                f"your line is not UTF-8 (byte 0x{line[error.start]:02X} at {error.start + 1}); it was not sent",
            )
        start = end
    return None


CLOSED: Final = " with the characters that close its bidirectional controls"
"""Added to a size that is over a limit only because of the bytes that `close_lines` adds."""


def too_long(size: int, line_bytes: int, counted: str = "") -> str:
    """Return the error text for the sender of a line that is too long."""
    return f"your line has {size:,} bytes{counted}; at most {line_bytes:,} are allowed; it was not sent"


def clean(block: bytes) -> bytes:
    """Return `block` as members may be shown it: `without_empty_lines`, then `close_lines`.

    So nobody can send escape sequences into another member's terminal, or reorder the text behind a line. `block` is
    UTF-8: whole lines with their line feeds.
    """
    block = without_empty_lines(block)
    return close_lines(block) if 0xE2 in block else block


def without_empty_lines(block: bytes) -> bytes:
    """Return `block` without C0 (except tab), DEL and C1 control characters and without empty lines."""
    block = without_controls(block)
    if block.rfind(b"\n\n") >= 0 or block.startswith(b"\n"):  # `rfind` takes a quarter of the time of `in` here
        block = _BLANK_LINES.sub(b"\n", block).removeprefix(b"\n")
    return block


def without_controls(block: bytes) -> bytes:
    """Return `block` without C0 (except tab and line feed), DEL and C1 control characters."""
    block = block.translate(None, _CONTROLS)
    return _C1.sub(b"", block) if 0xC2 in block else block  # a number is found ten times as fast as bytes


def close_lines(block: bytes) -> bytes:
    """Return `block`, changed so that no line affects the text behind its end; the number of lines stays the same.

    Bidirectional embeddings, overrides and isolates that are open at the end of a line are closed there, in the order
    of their nesting. The line separator U+2028 and the paragraph separator U+2029 become blanks.
    """
    if not _reaches_beyond(block):
        return block
    for separator in _SEPARATORS:
        block = block.replace(separator, b" ")
    return _FROM_CONTROL.sub(lambda found: found[0] + _ends(found[0]), block)


def one_line(text: str) -> str:
    """Return `text` as one line that a terminal shows as it is, even if an attacker wrote it.

    Control characters are removed, line feeds become blanks, and `close_lines` does the rest.
    """
    if text.isprintable():
        return text
    line = text.replace("\n", " ").encode(errors="replace")
    return close_lines(without_controls(line)).decode()


def _reaches_beyond(block: bytes) -> bool:
    """Return whether `close_lines` may have to change something."""
    return 0xE2 in block and _BEYOND_LINE.search(block) is not None


def _ends(line: bytes) -> bytes:
    """Return the controls that close the bidirectional controls left open in a line, the innermost one first."""
    ends: list[bytes] = []
    isolates = 0  # the number of them among `ends`
    for control in _CONTROL.findall(line):
        if (end := _END_OF.get(control)) is not None:
            ends.append(end)
            isolates += end == _END_ISOLATE
        elif control == _END_EMBEDDING:
            if ends and ends[-1] == _END_EMBEDDING:  # it ends no embedding outside of the isolate
                ends.pop()
        elif isolates:  # the end of an isolate also ends the embeddings within
            while ends.pop() != _END_ISOLATE:
                pass
            isolates -= 1
    return b"".join(reversed(ends))


def cut_lines(block: bytes, most: int) -> bytes:
    """Return the first `most` lines of a block of whole lines."""
    return block[: len(block) - len(block.split(b"\n", most)[most])]
