"""The bytes that a connection has received: cut into lines, the same ones however the bytes came."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatapi.limits import Limits
from chatapi.protocol.framing import LineTooLong, ReceiveBuffer, largest_run

LIMIT = 8
STREAMS = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n", b"x" * 7, b"x" * 8, b"x" * 9])).map(b"".join)


def lines_of(chunks: list[bytes], *, ended: bool = True, limit: int = LIMIT) -> list[bytes | int]:
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
                line = received.take_line(limit)
            except LineTooLong as error:
                found.append(error.size if f"{limit} are allowed" in str(error) else -1)
                continue
            if line is None:
                break
            found.append(line)
        assert 0 <= received.waiting <= limit + 1, "more is kept than the beginning of one line"
    return found


def model(data: bytes, limit: int = LIMIT) -> list[bytes | int]:
    *lines, last = data.split(b"\n")
    raw = [line.removesuffix(b"\r") for line in ([*lines, last] if last else lines)]
    return [len(line) if len(line) > limit else line for line in raw]


@given(STREAMS, st.lists(st.integers(0, 200), max_size=5))
@example(b"x" * 8 + b"\r\n" + b"x" * 9 + b"\r\n", [9])
@example(b"x" * 9 + b"\r", [9])
def test_a_stream_is_cut_into_the_same_lines_however_it_comes(data: bytes, cuts: list[int]) -> None:
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in pairwise(edges)]
    bytewise = [bytes([byte]) for byte in data]
    assert lines_of([data]) == lines_of(pieces) == lines_of(bytewise) == model(data)


def test_every_short_stream_is_cut_into_the_same_lines_wherever_it_is_cut() -> None:
    for size in range(1, 7):
        for data in map(bytes, product(b"a\r\n", repeat=size)):
            expected = model(data, 1)
            assert lines_of([bytes([byte]) for byte in data], limit=1) == expected
            for at in range(size):
                assert lines_of([data[:at], data[at:]], limit=1) == expected


def test_the_whole_lines_end_behind_the_last_line_feed() -> None:
    received = ReceiveBuffer()
    assert (received.waiting, received.lines_end(LIMIT)) == (0, 0)
    received.feed(b"\n")
    assert received.lines_end(LIMIT) == 1
    received.feed(b"one\ntwo")
    assert received.lines_end(LIMIT) == 5


@pytest.mark.parametrize("most", [1, 4, 5, 512, 513])
@pytest.mark.parametrize("log_entries", [64, 65_536])
def test_a_run_takes_a_sixteenth_of_the_log_at_most(most: int, log_entries: int) -> None:
    limits = Limits(log_entries=log_entries, log_bytes=1 << 20)
    assert largest_run(limits, most) == (min(most, 4 if log_entries == 64 else 512), 1 << 16)


def test_a_line_without_an_end_comes_with_the_end_of_the_stream() -> None:
    assert lines_of([b"one\ntwo"], ended=False) == [b"one"]
    assert lines_of([b"one\ntwo"]) == [b"one", b"two"]


def test_the_bytes_behind_a_line_stay_for_the_next_parser() -> None:
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
    assert (received.lines, received.wasted, received.waiting) == (2, 100, 0)


def test_one_line_end_that_is_to_be_dropped_is_dropped_in_any_form() -> None:
    for end in (b"\n", b"\r\n", b""):
        for pieces in ([end + b"one\n\n"], [bytes([byte]) for byte in end + b"one\n\n"]):
            received = ReceiveBuffer()
            received.drop_line_end()
            found = []
            for piece in pieces:
                received.feed(piece)
                while (line := received.take_line(LIMIT)) is not None:
                    found.append(line)
            assert found == [b"one", b""]
    received = ReceiveBuffer()
    received.feed(b"\n\none")
    received.drop_line_end()
    assert received.waiting == 4
    assert received.take_line(LIMIT) == b""


def test_a_carriage_return_that_is_to_be_dropped_is_kept_until_it_is_clear_what_follows() -> None:
    received = ReceiveBuffer()
    received.drop_line_end()
    received.feed(b"\r")
    assert received.take_line(LIMIT) is None
    assert received.waiting == 1
    received.end()
    assert received.take_line(LIMIT) == b""


def test_each_line_and_each_byte_of_a_dropped_line_is_charged_once_however_they_come() -> None:
    for tail, wasted in ((b"\n", 20), (b"\r\n", 21), (b"\rx\n", 22), (b"", 20)):
        data = b"one\n" + b"x" * 20 + tail + b"two\n" * bool(tail)
        for size in range(1, LIMIT + 1):
            received = ReceiveBuffer()
            sizes: list[int] = []
            for at in range(0, len(data) + size, size):
                if at < len(data):
                    received.feed(data[at : at + size])
                else:
                    received.end()
                while True:
                    try:
                        if received.take_line(LIMIT) is None:
                            break
                    except LineTooLong as error:
                        sizes.append(error.size)
            assert (received.lines, received.wasted, sizes) == (2 + bool(tail), wasted, [20 + 2 * (b"x" in tail)])
