"""The bytes that a connection has received: cut into lines, the same ones however the bytes came."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from chatapi.protocol.framing import LineTooLong, ReceiveBuffer

LIMIT = 8
STREAMS = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"x" * 7, b"x" * 8, b"x" * 9])).map(b"".join)


def lines_of(chunks: list[bytes], *, ended: bool = True) -> list[bytes | int]:
    """Every line of a stream that comes in these pieces; of a line that is too long, its size."""
    received = ReceiveBuffer()
    found: list[bytes | int] = []
    for chunk in [*chunks, None] if ended else chunks:
        if chunk is None:
            received.end()
        else:
            received.feed(chunk)
        while True:
            try:
                line = received.take_line(LIMIT)
            except LineTooLong as error:
                found.append(error.size)
                continue
            if line is None:
                break
            found.append(line)
        assert received.waiting <= LIMIT + 2, "more is kept than the beginning of one line"
    return found


def model(data: bytes) -> list[bytes | int]:
    *lines, last = data.split(b"\n")
    raw = [line.removesuffix(b"\r") for line in ([*lines, last] if last else lines)]
    return [len(line) if len(line) > LIMIT else line for line in raw]


@given(STREAMS, st.lists(st.integers(0, 200), max_size=5))
@example(b"x" * 8 + b"\r\n" + b"x" * 9 + b"\r\n", [9])
@example(b"x" * 9 + b"\r", [9])
def test_a_stream_is_cut_into_the_same_lines_however_it_comes(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    bytewise = [bytes([byte]) for byte in data]
    assert lines_of([data]) == lines_of(pieces) == lines_of(bytewise) == model(data)


def test_a_line_without_an_end_comes_with_the_end_of_the_stream() -> None:
    assert lines_of([b"one\ntwo"], ended=False) == [b"one"]
    assert lines_of([b"one\ntwo"]) == [b"one", b"two"]


def test_the_bytes_behind_a_line_stay_for_whoever_parses_next() -> None:
    received = ReceiveBuffer()
    received.feed(b"LOGIN\n\0\1binary")
    assert received.take_line(LIMIT) == b"LOGIN"
    assert received.data[received.at :] == b"\0\1binary"
    received.advance(len(received.data))
    assert (received.data, received.at, received.waiting) == (b"", 0, 0)


def test_what_a_member_is_charged_for() -> None:
    received = ReceiveBuffer()
    received.feed(b"one\ntwo\n" + b"x" * 100)
    assert received.take_line(LIMIT) == b"one"
    assert received.take_line(LIMIT) == b"two"
    assert received.take_line(LIMIT) is None
    assert (received.lines, received.wasted) == (2, 100)
