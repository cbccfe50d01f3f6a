"""Where a JSON object ends, which lines are whole and clean, and what of a telnet stream is text."""

from __future__ import annotations

import json
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from profiles import examples

from chatapi.protocol.framing import ObjectScanner
from chatapi.protocol.telnet import TelnetFilter
from chatapi.text import clean, cut_lines, find_fault

IAC, DONT, DO, WONT, WILL, SB, AYT, SE = 255, 254, 253, 252, 251, 250, 246, 240


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


# Where an object ends


def end_of(chunks: list[bytes]) -> int:
    """What the scanner says once all chunks have come; it must say so with the chunk that has the end."""
    scanner, data = ObjectScanner(), b""
    for chunk in chunks:
        data += chunk
        if end := scanner.end(data):
            return end
    return 0


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"a":{"b":[1,{}]}}',
        b'{"a":"}"}',
        b'{"a":"\\"}"}',
        b'{"a":"\\\\"}',
        b'{"a":"\\\\\\"}"}',
        b'{"a":"[{"}',
        b'{"}":"{"}',
        '{"a":"é}"}'.encode(),
        b"{]",  # no JSON, but it is not waited for more
    ],
)
def test_the_end_of_an_object_is_found_however_it_was_cut(text: bytes) -> None:
    for trailing in (b"", b"}", b"\n{}", b'"'):
        assert end_of([text + trailing]) == len(text)
    assert end_of([bytes([byte]) for byte in text + b"}}"]) == len(text)
    assert end_of([bytes([byte]) for byte in text[:-1]]) == 0


values = st.recursive(
    st.none() | st.integers() | st.text('a{}[]"\\é', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{}"\\', max_size=3), inner, max_size=3),
    max_leaves=6,
)


@examples(200)
@given(st.dictionaries(st.text(max_size=3), values, max_size=3), st.binary(max_size=9), st.lists(st.integers(0)))
def test_any_object_ends_where_its_json_ends(value: object, trailing: bytes, cuts: list[int]) -> None:
    text = json.dumps(value, ensure_ascii=False).encode()
    assert end_of(pieces(text + trailing, cuts)) == len(text)


# Lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("before", [b"", b"fine\n", b"\n\n"])
@pytest.mark.parametrize("text", [b"x" * 64, "ü".encode() * 32])
def test_a_line_of_just_the_limit_is_taken_and_a_byte_more_is_refused_with_both_numbers(
    text: bytes, before: bytes, end: bytes
) -> None:
    assert find_fault(before + text + end + b"next\n", 64) is None
    fault = find_fault(before + text + b"x" + end + b"next\n", 64)
    assert fault is not None
    assert (fault.start, fault.end) == (len(before), len(before + text + b"x" + end))
    assert "65 bytes" in fault.why
    assert "64 are allowed" in fault.why


def test_big_numbers_are_written_so_that_a_person_can_read_them() -> None:
    fault = find_fault(b"x" * 8193 + b"\n", 8192)
    assert fault is not None
    assert "8,193 bytes" in fault.why
    assert "8,192" in fault.why


@pytest.mark.parametrize(
    ("line", "where"),
    [
        (b"\xff", "0xFF at 1"),
        (b"abc\xc3", "0xC3 at 4"),
        (b"a\xed\xa0\x80", "0xED at 2"),  # half a surrogate pair
        (b"\xc0\xaf", "0xC0 at 1"),  # an overlong slash
        ("grüß".encode("latin-1"), "0xFC at 3"),
    ],
)
def test_a_line_that_is_not_utf8_is_refused_with_its_first_wrong_byte(line: bytes, where: str) -> None:
    fault = find_fault("é\n".encode() + line + b"\nnext\n", 64)
    assert fault is not None
    assert (fault.start, fault.end) == (3, 3 + len(line) + 1)
    assert "not UTF-8" in fault.why
    assert where in fault.why


def test_the_first_of_several_faults_is_told() -> None:
    fault = find_fault(b"a\n\xff\n" + b"x" * 65 + b"\n", 64)
    assert fault is not None
    assert (fault.start, fault.end) == (2, 4)


@pytest.mark.parametrize(
    ("block", "cleaned"),
    [
        (b"hello\n", "hello\n"),
        (b"a\tb\n", "a\tb\n"),
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"a\x1b[31mred\x07\0\x7f\n", "a[31mred\n"),
        ("a\x9b31m\x85b\x80\x9f\n".encode(), "a31mb\n"),
        ("\u00a0¡ÂÀ\u0400\n".encode(), "\u00a0¡ÂÀ\u0400\n"),  # they have the same bytes in them
        (b"\n\n a \n\n\x01\n\r\nb\n\n", " a \nb\n"),
        (b"\n", ""),
        (b"\r\x01\n\x02\n", ""),
    ],
)
def test_control_characters_and_empty_lines_are_removed(block: bytes, cleaned: str) -> None:
    assert clean(block).decode() == cleaned


REACH_BEYOND_LINE = "".join(map(chr, [*range(0x2028, 0x202F), *range(0x2066, 0x206A)]))
"""Separators of lines and bidirectional controls, which test_line_ends.py is about."""
SOME_CONTROLS = "aé \t\n\r\x1b\x9b\x85Â\x80"


@examples(300)
@given(st.text(st.characters(codec="utf-8", exclude_characters=REACH_BEYOND_LINE)) | st.text(SOME_CONTROLS))
@example("\u0080\u0880\u2080")
def test_cleaning_removes_controls_and_nothing_else(text: str) -> None:
    kept = "".join(char for char in text if char in "\t\n" or unicodedata.category(char) != "Cc")
    expected = "".join(line + "\n" for line in kept.split("\n") if line)
    assert clean(text.encode() + b"\n").decode() == expected


@examples(50)
@given(st.lists(st.sampled_from([b"\n", b"a\n", b"bc\n"]), min_size=1), st.integers(1, 9))
def test_so_many_lines_are_cut_from_a_block(lines: list[bytes], most: int) -> None:
    assert cut_lines(b"".join(lines), min(most, len(lines))) == b"".join(lines[:most])


# Telnet


def filtered(chunks: list[bytes]) -> tuple[bytes, bytes]:
    telnet = TelnetFilter()
    fed = [telnet.feed(chunk) for chunk in chunks]
    return b"".join(text for text, _ in fed), b"".join(reply for _, reply in fed)


TELNET = {
    "text of nc": (b"hello\nyou\n", b"hello\nyou\n", b""),
    "a carriage return with a NUL is a new line": (b"a\r\0b\r\n", b"a\nb\r\n", b""),
    "WILL is refused": (bytes([65, IAC, WILL, 31, 66]), b"AB", bytes([IAC, DONT, 31])),
    "DO is refused": (bytes([IAC, DO, 1, 66]), b"B", bytes([IAC, WONT, 1])),
    "WONT and DONT need no answer": (bytes([65, IAC, WONT, 1, IAC, DONT, 3, 66]), b"AB", b""),
    "an option of 255": (bytes([IAC, DO, IAC, 66]), b"B", bytes([IAC, WONT, IAC])),
    "a doubled IAC is one byte": (bytes([65, IAC, IAC, 66]), b"A\xffB", b""),
    "a subnegotiation": (bytes([65, IAC, SB, 31, 0, 10, IAC, IAC, SE, 65, IAC, SE, 66]), b"AB", b""),
    "are you there": (bytes([65, IAC, AYT, 66]), b"AB", b"\r\n[yes]\r\n"),
    "other commands": (bytes([65, IAC, 241, IAC, 244, 66]), b"AB", b""),
    "within a new line": (bytes([65, 13, IAC, 241, 0, 66]), b"A\nB", b""),
    "all together": (
        bytes([IAC, WILL, 31, IAC, DO, 1]) + b"Mi\r\0" + bytes([IAC, SB, 24, 1, IAC, SE]) + b"na\r\n",
        b"Mi\nna\r\n",
        bytes([IAC, DONT, 31, IAC, WONT, 1]),
    ),
}


@pytest.mark.parametrize(("data", "text", "reply"), TELNET.values(), ids=TELNET)
def test_telnet_sequences_are_answered_and_never_shown(data: bytes, text: bytes, reply: bytes) -> None:
    assert filtered([data]) == (text, reply)
    assert filtered([bytes([byte]) for byte in data]) == (text, reply)
    assert filtered([data + b"more\n"]) == (text + b"more\n", reply)


def test_an_unfinished_sequence_is_waited_for() -> None:
    for unfinished in ([IAC], [IAC, WILL], [IAC, SB, 31, 65], [IAC, SB, 31, IAC]):
        assert filtered([b"a" + bytes(unfinished)]) == (b"a", b"")


@examples(300)
@given(
    st.lists(st.sampled_from([IAC, DONT, DO, WONT, WILL, SB, AYT, SE, 0, 10, 13, 65, 1])).map(bytes) | st.binary(),
    st.lists(st.integers(0)),
)
def test_a_telnet_stream_means_the_same_however_it_was_cut(data: bytes, cuts: list[int]) -> None:
    assert filtered(pieces(data, cuts)) == filtered([data])


@examples(100)
@given(st.binary(max_size=60), st.lists(st.integers(0)))
def test_what_was_doubled_comes_out_as_it_was(data: bytes, cuts: list[int]) -> None:
    data = data.replace(b"\r", b"") + b"."
    assert filtered(pieces(data.replace(b"\xff", b"\xff\xff"), cuts)) == (data, b"")
