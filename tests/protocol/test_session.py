"""A session: bytes in, the same steps out however the bytes were cut."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, TypeAlias

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import Nickname, Parser, State
from profiles import examples

from chatapi.core.handshake import Handshake
from chatapi.errors import RefusalCode, Refused
from chatapi.limits import Limits
from chatapi.protocol.framing import Lines
from chatapi.protocol.handshake import parse_handshake
from chatapi.protocol.text.commands import BadCommand, Command, parse_command
from chatapi.protocol.text.protocol import BadLine

Step: TypeAlias = Any
LIMITS = Limits(line_bytes=64, handshake_bytes=128)
MINA = b'{"name": "Mina", "room": "dev"}'
HELLO = parse_handshake(MINA)


def run(
    chunks: list[bytes],
    state: State = State.HANDSHAKE,
    *,
    commands: bool = True,
    most: int = 1000,
    end: bool = True,
    limits: Limits = LIMITS,
) -> list[Step | RefusalCode]:
    """Every step that a session takes, runs of lines put together; a refusal is the last one, as its code."""
    session = Parser(limits, state)
    if state is State.LINES:
        session.open(commands)
    steps: list[Step | RefusalCode] = []
    try:
        for chunk in [*chunks, None] if end else chunks:
            if chunk is None:
                session.end()
            else:
                session.feed(chunk)
            while (step := session.step(most)) is not None:
                if isinstance(step, Handshake | Nickname):
                    session.open(commands)
                if isinstance(step, Lines):
                    assert step.messages == step.block.count(b"\n") <= step.cost <= most
                    assert step.block.endswith(b"\n") or not step.block
                    if steps and isinstance(before := steps[-1], Lines):
                        steps.pop()
                        step = Lines(*(old + new for old, new in zip(before, step, strict=True)))  # type: ignore
                steps.append(step)
    except Refused as refused:
        steps.append(refused.code)
    return steps


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def said(*texts: str, cost: int | None = None) -> Lines:
    return Lines("".join(text + "\n" for text in texts).encode(), len(texts), len(texts) if cost is None else cost)


# The handshake


@pytest.mark.parametrize(
    ("after", "steps"),
    [
        (b"", []),
        (b"\n", []),
        (b"\r\n", []),
        (b"hi\n", [said("hi")]),
        (b"\nhi\n", [said("hi")]),
        (b"\r\nhi\r\n", [said("hi")]),
        (b"\n\nhi\n", [said("hi", cost=2)]),
        (b"\r\n\r\nhi\n", [said("hi", cost=2)]),
        (b" hi\n", [said(" hi")]),
        (b"\rhi\n", [said("hi")]),
        (b"\r", [said(cost=1)]),
        (b"hi", [said("hi")]),
        (b"\n/list\nhi\n", [Command("list", ""), said("hi")]),
        (b"/list\n", [Command("list", "")]),
        (b"}\n", [said("}")]),
        (b'{"name": "Zoe"}\n', [said('{"name": "Zoe"}')]),
    ],
)
def test_every_byte_behind_the_handshake_and_one_line_end_belongs_to_the_first_line(
    after: bytes, steps: list[Step]
) -> None:
    for before in (b"", b" ", b"\r\n\t \n"):
        data = before + MINA + after
        for chunks in ([data], bytewise(data), [before + MINA, after], [before, MINA[:9], MINA[9:] + after]):
            assert run(chunks) == [HELLO, *steps]


def test_the_handshake_is_taken_before_anything_follows_it() -> None:
    assert run([MINA], end=False) == [HELLO]
    assert run([MINA[:-1]], end=False) == []


@pytest.mark.parametrize("before", [b"", b"\r\n" * 200])
@pytest.mark.parametrize("after", [b"", b"\nhi\n" * 4000])
def test_a_handshake_of_just_the_limit_is_taken_and_a_byte_more_is_refused(before: bytes, after: bytes) -> None:
    def of(size: int) -> bytes:
        return before + MINA[:-1].ljust(size - 1) + b"}"

    for chunks in ([of(8192) + after], [*bytewise(of(8192)), after]):
        assert run(chunks, limits=Limits())[0] == HELLO
    for chunks in ([of(8193) + after], [*bytewise(of(8193)), after], [of(9000)[: len(before) + 8193]]):
        assert run(chunks, limits=Limits()) == [RefusalCode.HANDSHAKE_TOO_LARGE]


def test_a_client_that_sends_too_much_is_told_the_limit() -> None:
    session = Parser(Limits())
    session.feed(b"{" * 8193)
    with pytest.raises(Refused, match="more than 8,192 bytes"):
        session.step(1)


@pytest.mark.parametrize("data", [b"hello\n", b"GET / HTTP/1.1\r\n", b"[]", b'"Mina"', b"\xff\xfb\x1f", b"\0", b"}"])
def test_what_does_not_begin_like_a_handshake_is_refused_at_once(data: bytes) -> None:
    assert run([data], end=False) == run(bytewise(b"\n" + data), end=False) == [RefusalCode.BAD_HANDSHAKE]


def test_a_client_of_another_protocol_is_told_what_was_expected_and_what_came() -> None:
    session = Parser(LIMITS)
    session.feed(b"hello\r\n")
    with pytest.raises(Refused, match=r'"room": "devroom"}.*starts with .h.'):
        session.step(1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"name": 1, "room": "dev"}', RefusalCode.BAD_HANDSHAKE),
        (b"{]", RefusalCode.BAD_HANDSHAKE),
        (b'{"name": "a b", "room": "dev"}', RefusalCode.BAD_NAME),
        (b'{"name": "Mina", "room": ""}', RefusalCode.BAD_ROOM),
    ],
)
def test_a_handshake_that_is_refused_is_the_last_step(data: bytes, code: RefusalCode) -> None:
    for chunks in ([data + b"\nhi\n"], bytewise(data + b"\nhi\n"), [data]):
        assert run(chunks) == [code]


@pytest.mark.parametrize("data", [b"{", MINA[:-1], b' {"name": "'])
def test_a_stream_that_ends_within_the_handshake_is_told_so(data: bytes) -> None:
    assert run([data]) == run(bytewise(data)) == [RefusalCode.BAD_HANDSHAKE]


@pytest.mark.parametrize("data", [b"", b" \r\n"])
def test_a_stream_that_ends_before_the_handshake_just_ends(data: bytes) -> None:
    assert run([data]) == []


# Lines


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("start", [b"", b"/msg Zoe ", b"@Zoe ", b"//", "é".encode()])
def test_a_line_of_just_the_limit_is_taken_and_a_byte_more_costs_its_sender_that_line_alone(
    start: bytes, end: bytes
) -> None:
    line = start.ljust(8192, b"x")
    for chunks in ([line + end + b"next\n"], bytewise(line + end + b"next\n")):
        first, *rest = run(chunks, State.LINES, limits=Limits())
        assert not isinstance(first, BadLine)
        assert rest in ([said("next")], [])  # part of the first run, where that is text
    refused = BadLine("your line has 8,193 bytes; at most 8,192 are allowed; it was not sent")
    for chunks in ([line + b"x" + end + b"next\n"], bytewise(line + b"x" + end + b"next\n")):
        assert run(chunks, State.LINES, limits=Limits()) == [refused, said("next")]
    assert run([line + b"x"], State.LINES, limits=Limits()) == [refused]


@pytest.mark.parametrize("line", [b"caf\xe9", b"@Zoe caf\xe9", b"/list \xff", b"//\xff"])
def test_a_line_that_is_not_utf8_costs_its_sender_that_line_alone(line: bytes) -> None:
    data = b"before\n" + line + b"\nafter\n"
    for chunks in ([data], bytewise(data)):
        before, refused, after = run(chunks, State.LINES)
        assert (before, after) == (said("before"), said("after"))
        assert isinstance(refused, BadLine)
        assert "not UTF-8" in refused.why


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("//x", "/x"),
        ("@@x", "@x"),
        ("//", "/"),
        ("@@", "@"),
        ("///x", "//x"),
        ("//bye", "/bye"),
        ("//a\x1bb", "/ab"),
        (" /bye", " /bye"),
        ("a/b@c", "a/b@c"),
        ("/@x", None),
        ("@/x", None),
    ],
)
def test_a_doubled_first_character_is_sent_once_as_text(line: str, text: str | None) -> None:
    (step,) = run([line.encode() + b"\n"], State.LINES)
    if text is None:
        assert isinstance(step, BadCommand)
    else:
        assert step == said(text)


@pytest.mark.parametrize("line", ["/bye", "@Zoe hi", "//x", "@@x", "/", "@", "/frobnicate"])
def test_without_commands_every_line_goes_out_as_it_is(line: str) -> None:
    data = f"a\n{line}\nb\n".encode()
    for chunks in ([data], bytewise(data)):
        assert run(chunks, State.LINES, commands=False) == [said("a", line, "b")]
        assert run([MINA, *chunks], commands=False) == [HELLO, said("a", line, "b")]


@pytest.mark.parametrize("hidden", ["\0", "\r", "\x1b", "\x7f", "\x9b", "\r\x01"])
def test_what_nobody_can_see_before_a_whisper_does_not_make_it_public(hidden: str) -> None:
    data = f"{hidden}/list\na\n{hidden}@Zoe secret\nb\n{hidden}/bye\n".encode()
    commands = Command("list", ""), Command("msg", "Zoe", "secret"), Command("bye", "")
    for chunks in ([data], bytewise(data)):
        assert run(chunks, State.LINES) == [commands[0], said("a"), commands[1], said("b"), commands[2]]
    data = f"a\n{hidden}/bye\n".encode()
    assert run([data], State.LINES) == [said("a"), Command("bye", "")]
    assert run([data], State.LINES, commands=False) == [said("a", "/bye")]
    for text in (f"{hidden}@@x", f"@{hidden}@x"):
        assert run([text.encode()], State.LINES) == [said("@x")]


# Nicknames


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_where_a_nickname_is_asked_for_a_line_is_one_until_one_is_taken(end: bytes) -> None:
    session = Parser(LIMITS, State.NICKNAME)
    session.feed(end.join([b" /x ", b"", b"x" * 65, b"\xff", b"M\x1bina", b"/list", b"hi", b""]))
    assert session.step(9) == Nickname("/x")
    assert session.step(9) == Nickname("")
    assert session.step(9) == BadLine("your line has 65 bytes; at most 64 are allowed; it was not sent")
    assert isinstance(session.step(9), BadLine)
    assert session.step(9) == Nickname("Mina")
    session.open(commands=True)
    assert session.step(9) == Command("list", "")
    assert session.step(9) == said("hi")
    assert session.step(9) is None


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        (b"Mina\r\nhi\r\n/list\r\n", [Nickname("Mina"), said("hi"), Command("list", "")]),
        (b"Mina", [Nickname("Mina")]),
        ("Zoë\n".encode(), [Nickname("Zoë")]),
        (b"x" * 65 + b"\nMina\n", [BadLine("your line has 65 bytes; at most 64 are allowed; it was not sent")]),
    ],
)
def test_a_nickname_is_the_same_however_it_was_cut(data: bytes, steps: list[Step]) -> None:
    for chunks in ([data], bytewise(data)):
        assert run(chunks, State.NICKNAME)[: len(steps)] == steps


# One step at a time


def test_the_bytes_behind_a_step_wait_until_it_is_known_what_they_are() -> None:
    session = Parser(LIMITS)
    session.feed(MINA + b"\n/list\nhi\n")
    assert session.step(9) == HELLO
    assert session.waiting == len(b"/list\nhi\n")  # the line end belongs to the handshake
    session.open(commands=False)
    assert session.step(9) == said("/list", "hi")
    assert session.waiting == 0


def test_a_run_ends_before_a_command_and_what_follows_waits() -> None:
    session = Parser(LIMITS, State.LINES)
    session.open(commands=True)
    session.feed(b"a\nb\n@Zoe hi\n/join x\nc\nd")
    assert session.step(9) == said("a", "b")
    assert session.step(9) == Command("msg", "Zoe", "hi")
    assert session.step(9) == Command("join", "x")
    assert session.waiting == len(b"c\nd")
    session.feed(b"e\n")
    assert session.step(9) == said("c", "de")
    assert session.step(9) is None


def test_a_step_has_no_more_lines_than_were_asked_for_empty_ones_included() -> None:
    session = Parser(LIMITS, State.LINES)
    session.feed(b"a\n\nb\nc\nd\n")
    assert session.step(3) == said("a", "b", cost=3)
    assert session.step(1) == said("c")
    assert session.step(3) == said("d")


def test_a_line_without_an_end_takes_no_memory() -> None:
    session = Parser(LIMITS, State.LINES)
    for _ in range(1000):
        session.feed(b"x" * 999 + b"\r")
        assert session.step(9) is None
        assert session.waiting <= 1
    session.feed(b"\nnext\n")
    assert session.step(9) == BadLine("your line has 999,999 bytes; at most 64 are allowed; it was not sent")
    assert session.step(9) == said("next")


def test_blanks_before_a_handshake_take_no_memory() -> None:
    session = Parser(LIMITS)
    for _ in range(100):
        session.feed(b" \r\n\t" * 100)
        assert session.step(9) is None
        assert session.waiting == 0


# Any bytes


def told(data: bytes, commands: bool) -> Iterator[object]:
    """What the protocol makes of lines, as a model of a few lines."""
    *lines, last = data.split(b"\n")
    for line in [*lines, last] if last else lines:
        raw = line.removesuffix(b"\r")
        if len(raw) > LIMITS.line_bytes:
            yield [str(len(raw)), str(LIMITS.line_bytes)]
            continue
        try:
            shown = raw.decode()
        except UnicodeDecodeError:
            yield "not UTF-8"
            continue
        text = "".join(char for char in shown if char == "\t" or unicodedata.category(char) != "Cc")
        if commands and text.startswith(("//", "@@")):
            yield text[1:]
        elif commands and text.startswith(("/", "@")):
            yield parse_command(text)
        elif text:
            yield text


def heard(steps: list[Step | RefusalCode]) -> Iterator[object]:
    """The same of a session's steps."""
    for step in steps:
        if isinstance(step, Lines):
            yield from step.block.decode().split("\n")[:-1]
        elif isinstance(step, BadLine):
            yield "not UTF-8" if "not UTF-8" in step.why else re.findall(r"\d+", step.why)
        else:
            yield step


ends = [b"\n", b"\n", b"\r\n", b"\r", b"\n/", b"\n@"]
parts = [b"/", b"@", b"//", b"@@", b"list", b"join a", b"Zoe hi", b" ", b"x", b"x" * 31, b"x" * 64, "é".encode()]
dirt = [b"\t", b"\xc3", b"\xff", b"\xc2\x9b", b"\x1b", b"\0", b"\x7f"]
words = st.sampled_from([*ends, *parts, *dirt])
text = st.lists(words, max_size=30).map(b"".join) | st.binary(max_size=80)
cuts = st.lists(st.integers(0), max_size=6)
FUZZ = examples(300)


@FUZZ
@given(text, cuts, st.booleans(), st.sampled_from([1, 2, 1000]))
@example(b"x" * 65 + b"\r\n" + b"x" * 64 + b"\r\r\n/", [65], True, 1000)
@example(b"a\n\n\x1b@Zoe hi\n\x1b//x", [4], True, 2)
def test_any_lines_become_what_the_protocol_says(data: bytes, cuts: list[int], commands: bool, most: int) -> None:
    steps = run(pieces(data, cuts), State.LINES, commands=commands, most=most)
    assert list(heard(steps)) == list(told(data, commands))
    assert sum(step.cost if isinstance(step, Lines) else 1 for step in steps) == data.count(b"\n") + bool(
        data.rpartition(b"\n")[2]
    )
    whole = run([data], State.LINES, commands=commands)
    assert steps == whole == run(bytewise(data), State.LINES, commands=commands)


@FUZZ
@given(st.sampled_from([b"", b" \r\n"]), text, cuts, st.booleans())
def test_any_bytes_behind_a_handshake_are_its_lines(before: bytes, data: bytes, cuts: list[int], end: bool) -> None:
    steps = run(pieces(before + MINA + data, cuts), end=end)
    assert steps[0] == HELLO
    if end:
        rest = data[2:] if data.startswith(b"\r\n") else data.removeprefix(b"\n")
        assert list(heard(steps[1:])) == list(told(rest, commands=True))
    assert steps == run(bytewise(before + MINA + data), end=end)


pairs = st.sampled_from(
    [b'"name":"Mina"', b'"Room":"dev"', b'"room":"a b"', b'"history":-1', b'"a":{"b":"}"}', b'"\xff"']
)
objects = st.lists(pairs, max_size=5).map(lambda pairs: b"{" + b",".join(pairs) + b"}")


@FUZZ
@given(st.lists(objects | words | st.binary(max_size=8), max_size=5).map(b"".join), cuts, st.sampled_from(State))
def test_any_bytes_are_steps_or_refused_and_the_same_however_they_were_cut(
    data: bytes, cuts: list[int], state: State
) -> None:
    steps = run([data], state)
    assert steps == run(pieces(data, cuts), state) == run(bytewise(data), state)
