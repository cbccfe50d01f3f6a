"""The frames of the JSON protocol: what a line says, what is wrong with it, and how lines are cut from a stream."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import Parser, State

from chatapi.errors import FrameError
from chatapi.limits import Limits
from chatapi.protocol.json.frames import (
    TYPES,
    AskHistory,
    AskMembers,
    AskRooms,
    BadFrame,
    Bye,
    Frame,
    Move,
    Ping,
    Rename,
    Say,
    Tell,
    parse_frame,
)
from chatapi.protocol.json.rendering import frame

FRAMES = (Say, Tell, Rename, Move, AskMembers, AskRooms, AskHistory, Ping, Bye)
LIMITS = Limits(frame_bytes=1024)
FULL: dict[str, dict[str, Any]] = {
    "message": {"text": "hi", "id": "m1"},
    "whisper": {"to": "Zoe", "text": "psst", "id": "w1"},
    "rename": {"to": "Mia", "ref": "r"},
    "join": {"room": "lab", "ref": 1},
    "members": {"after": "Ann", "limit": 5, "ref": "r"},
    "rooms": {"after": "dev", "limit": 5, "ref": "r"},
    "history": {"before": 10, "limit": 5, "ref": "r"},
    "ping": {"ref": "r"},
    "bye": {},
}
"""Every frame of the client's table with all of its fields."""


def parse(type: str, **fields: Any) -> Frame | BadFrame:  # noqa: A002
    return parse_frame(json.dumps({"type": type, **fields}).encode())


def bad(result: Frame | BadFrame) -> BadFrame:
    assert isinstance(result, BadFrame), result
    assert result.code is FrameError.BAD_FRAME
    assert result.detail
    return result


# What a line says


def test_the_table_is_whole() -> None:
    assert tuple(FULL) == TYPES


@pytest.mark.parametrize("kind", FULL)
@pytest.mark.parametrize("more", [{}, {"nonsense": [1], "Text": 5}])
def test_every_frame_with_all_its_fields(kind: str, more: dict[str, Any]) -> None:
    found = parse(kind, **FULL[kind], **more)
    assert type(found) is FRAMES[TYPES.index(kind)]
    assert found.model_dump() == {"type": kind, **FULL[kind]}


@pytest.mark.parametrize(
    ("kind", "fields", "defaults"),
    [
        ("message", {"text": ""}, {"id": None}),
        ("message", {"text": "x", "id": None}, {"id": None}),
        ("whisper", {"to": "", "text": "x"}, {"id": None}),
        ("rename", {"to": "x"}, {"ref": None}),
        ("join", {"room": "x"}, {"ref": None}),
        ("members", {}, {"after": None, "limit": 100, "ref": None}),
        ("rooms", {}, {"after": None, "limit": 100, "ref": None}),
        ("history", {}, {"before": None, "limit": 100, "ref": None}),
        ("ping", {"ref": None}, {"ref": None}),
    ],
)
def test_what_may_be_left_out(kind: str, fields: dict[str, Any], defaults: dict[str, Any]) -> None:
    found = parse(kind, **fields)
    assert not isinstance(found, BadFrame)
    assert found.model_dump() == {"type": kind, **fields, **defaults}


@pytest.mark.parametrize("id_", ["x", "x" * 64, "\u00e9" * 64, " ", "null", "\n"])
def test_an_id_has_1_to_64_characters(id_: str) -> None:
    assert parse("message", text="t", id=id_) == Say(type="message", text="t", id=id_)


@pytest.mark.parametrize("ref", ["", "x" * 64, 0, -5, 2**70])
def test_a_ref_is_a_string_or_a_whole_number(ref: str | int) -> None:
    assert parse("ping", ref=ref) == Ping(type="ping", ref=ref)


STRING = [5, 1.5, True, None, [], {}, ["x"]]
AFTER = [5, 1.5, True, [], {}, ["x"]]
COUNT = ["5", 1.5, True, None, [], 0, -1, 101, 10**30]
REF = [1.5, True, [], {}, "x" * 65]
ID = [5, 1.5, True, [], {}, "", "x" * 65]
WRONG = {
    ("message", "text"): STRING, ("message", "id"): ID,
    ("whisper", "to"): STRING, ("whisper", "text"): STRING, ("whisper", "id"): ID,
    ("rename", "to"): STRING, ("rename", "ref"): REF,
    ("join", "room"): STRING, ("join", "ref"): REF,
    ("members", "after"): AFTER, ("members", "limit"): COUNT, ("members", "ref"): REF,
    ("rooms", "after"): AFTER, ("rooms", "limit"): COUNT, ("rooms", "ref"): REF,
    ("history", "before"): ["5", 1.5, True, [], 0, -1], ("history", "limit"): COUNT, ("history", "ref"): REF,
    ("ping", "ref"): REF,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "field"), WRONG)
def test_every_wrong_field_is_named_with_what_the_frame_was_called(kind: str, field: str) -> None:
    carried = {key: FULL[kind][key] for key in ("ref", "id") if key in FULL[kind] and key != field}
    for value in WRONG[kind, field]:
        wrong = bad(parse(kind, **{**FULL[kind], field: value}))
        assert wrong.detail.startswith(f"'{field}': ")
        assert not any(f"'{other}'" in wrong.detail for other in FULL[kind] if other != field)
        assert {key: getattr(wrong, key) for key in carried} == carried


def test_the_table_of_wrong_fields_is_whole() -> None:
    assert set(WRONG) == {(kind, field) for kind, fields in FULL.items() for field in fields}


@pytest.mark.parametrize("ref", [*REF, None, {"a": 1}])
def test_a_ref_that_is_no_ref_is_not_carried(ref: object) -> None:
    assert bad(parse("join", room=5, ref=ref)).ref is None


@pytest.mark.parametrize("id_", [5, True, None, [], "x" * 65])
def test_an_id_that_is_no_id_is_not_carried(id_: object) -> None:
    assert bad(parse("message", text=5, id=id_)).id is None


@pytest.mark.parametrize(
    ("kind", "field"), [(k, f) for k, fields in FULL.items() for f in fields if f in ("text", "to", "room")]
)
def test_a_field_that_is_missing_is_named(kind: str, field: str) -> None:
    fields = {key: value for key, value in FULL[kind].items() if key != field}
    wrong = bad(parse(kind, **fields))
    assert wrong.detail == f"'{field}': Field required"
    assert (wrong.ref, wrong.id) == (fields.get("ref"), fields.get("id"))


@pytest.mark.parametrize("type_", ["pong", "", "Message", "bye ", 5, None, True, [], {}, ["message"], "x" * 1000])
def test_a_type_that_is_none_is_told_with_those_that_are(type_: object) -> None:
    wrong = bad(parse_frame(json.dumps({"type": type_, "ref": "r", "id": "i"}).encode()))
    assert all(name in wrong.detail for name in TYPES)
    assert len(wrong.detail) < 200
    assert (wrong.ref, wrong.id) == ("r", "i")
    assert bad(parse_frame(b'{"text": "hi"}')).detail.startswith("'type'")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"hello", b"{", b'{"type":"ping"', b'{"type":"ping"}x', b'{"type":"ping"}{"type":"ping"}', b"\xff",
        b'{"type":"message","text":"\xff"}', b'{"type":"message","text":"\\ud800"}', b'{"type":"ping","ref":NaN}',
        b'{"type":"ping","ref":Infinity}', b"{'type':'ping'}", b'{"type":"message","text":"a\nb"}', b"[" * 5000,
        b'{"type":"ping","ref":' + b"9" * 5000 + b"}", b'{"a":' * 5000,
    ],
)  # fmt: skip
def test_what_is_not_json_is_told(line: bytes) -> None:
    assert bad(parse_frame(line)).detail.startswith("not JSON: ")


@pytest.mark.parametrize("line", [b"[]", b"5", b'"message"', b"null", b"true", b'[{"type":"ping"}]'])
def test_what_is_not_an_object_is_told(line: bytes) -> None:
    assert "object" in bad(parse_frame(line)).detail


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.dictionaries(
    st.sampled_from(["type", "text", "to", "id", "ref", "room", "after", "before", "limit", "x"]), JSON_VALUES
)


@given(st.binary() | st.builds(lambda fields: json.dumps(fields).encode(), FIELDS))
@example(b'{"type":[]}')
@example(b'{"type":"ping","ref":1e400}')
@example(b'{"type":"ping","type":"bye"}')
def test_any_bytes_are_a_frame_or_a_bad_frame_that_can_be_answered(line: bytes) -> None:
    found = parse_frame(line)
    if isinstance(found, BadFrame):
        answer = frame("error", code=found.code, detail=found.detail, ref=found.ref, id=found.id)
        assert json.loads(answer) == {
            "type": "error",
            "code": "bad_frame",
            "detail": found.detail,
            "ref": found.ref,
            "id": found.id,
        }
    else:
        assert isinstance(found, FRAMES)


@given(st.sampled_from(TYPES), FIELDS)
def test_any_fields_of_a_frame_are_taken_or_one_of_them_is_named(kind: str, fields: dict[str, Any]) -> None:
    found = parse_frame(json.dumps({**fields, "type": kind}).encode())
    if isinstance(found, BadFrame):
        assert found.detail.partition(":")[0].strip("'") in FULL[kind]


# How lines are cut from a stream


def run(chunks: list[bytes], limits: Limits = LIMITS, *, end: bool = True) -> list[Frame | BadFrame]:
    """Every frame in a stream that comes in these pieces."""
    session = Parser(limits)
    session.open_frames()
    found: list[Any] = []
    for chunk in [*chunks, None] if end else chunks:
        if chunk is None:
            session.end()
        else:
            session.feed(chunk)
        while (step := session.step(1000)) is not None:
            found.append(step)
    return found


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def ping(ref: int, size: int = 0) -> bytes:
    """A ping as a line without its end, of `size` bytes where that is more."""
    line = b'{"type":"ping","ref":%d,"x":""}' % ref
    return line[:-2] + b"x" * max(0, size - len(line)) + line[-2:]


def told(steps: list[Frame | BadFrame]) -> list[Any]:
    """The refs of pings, and the codes of what is wrong."""
    return [step.ref if isinstance(step, Ping) else str(step.code) for step in steps]  # type: ignore[union-attr]


STREAMS = [
    (b"", []),
    (b"\n", []),
    (b" \r\n\t\n\n", []),
    (ping(1) + b"\n", [1]),
    (ping(1) + b"\r\n", [1]),
    (ping(1), [1]),
    (ping(1) + b"\r", [1]),
    (ping(1) + b"\n" + ping(2), [1, 2]),
    (b"\n\r\n" + ping(1) + b"\n\n  \n" + ping(2) + b"\n \n", [1, 2]),
    (b"  " + ping(1) + b" \t\r\n\t" + ping(2) + b"\r\r\n", [1, 2]),
    (ping(1) + ping(2) + b"\n" + ping(3) + b"\n", ["bad_frame", 3]),
    (b"nonsense\n" + ping(1) + b"\n\xff\n" + ping(2) + b"\n", ["bad_frame", 1, "bad_frame", 2]),
    (b'{"type":\n"ping"}\n' + ping(1) + b"\n", ["bad_frame", "bad_frame", 1]),
    (ping(1, 1024) + b"\n" + ping(2) + b"\n", [1, 2]),
    (ping(1, 1024) + b"\r\n" + ping(2) + b"\n", [1, 2]),
    (ping(1, 1024), [1]),
    (ping(1, 1025) + b"\n" + ping(2) + b"\n", ["frame_too_large", 2]),
    (ping(1, 1025) + b"\r\n" + ping(2) + b"\r\n", ["frame_too_large", 2]),
    (ping(1, 1025), ["frame_too_large"]),
    (ping(1, 5000) + b"\n\n" + ping(2, 5000) + b"\n" + ping(3), ["frame_too_large", "frame_too_large", 3]),
    (b"x" * 3000 + b"\r" * 3000 + b"\n" + ping(1) + b"\n", ["frame_too_large", 1]),
    (b"\n" * 3000 + ping(1) + b"\r\n" * 3000 + ping(2), [1, 2]),
]


@pytest.mark.parametrize(("data", "expected"), STREAMS)
def test_the_same_frames_come_out_however_the_bytes_were_cut(data: bytes, expected: list[Any]) -> None:
    for chunks in ([data], bytewise(data), [data[at : at + 2] for at in range(0, len(data), 2)]):
        assert told(run(chunks)) == expected


@given(
    st.lists(
        st.sampled_from(
            [b"\n", b"\r\n", b" ", b"\r", b"x", b"\t \n", b"\xff\n", ping(1), ping(2) + b"\n", ping(3, 200) + b"\r\n",
             ping(4, 1023), ping(5, 1024) + b"\n", ping(6, 1025) + b"\n", b" " * 1100, b"\n" * 1100, b"x" * 1100]
        ),
        max_size=8,
    ).map(b"".join),
    st.lists(st.integers(0, 10_000), max_size=8),
)  # fmt: skip
@example(b" " * 1100 + ping(1) + b"\n", [1050])
@example(ping(1) + b" " * 1100 + b"\n", [1090])
def test_any_stream_cut_anywhere_gives_the_same_frames(data: bytes, cuts: list[int]) -> None:
    assert run(pieces(data, cuts)) == run([data])


def test_nothing_comes_out_before_the_end_of_its_line() -> None:
    session = Parser(LIMITS)
    session.open_frames()
    session.feed(ping(1))
    assert session.step(1) is None
    session.feed(b"\r")
    assert session.step(1) is None
    session.feed(b"\n" + ping(2))
    assert told([session.step(1)]) == [1]  # type: ignore[list-item]
    assert session.step(1) is None
    assert session.waiting == len(ping(2))


def test_the_limit_of_a_frame_is_65536_bytes_and_its_size_is_told() -> None:
    limits = Limits()
    line, more = ping(1, 65536), ping(2, 65537)
    assert len(line) == 65536
    for chunks in ([line + b"\n" + more + b"\n" + ping(3) + b"\n"], [line, b"\n", more, b"\n", ping(3) + b"\n"]):
        steps = run(chunks, limits)
        assert told(steps) == [1, "frame_too_large", 3]
        assert isinstance(steps[1], BadFrame)
        assert "65,537" in steps[1].detail
        assert "65,536" in steps[1].detail


def test_a_frame_without_an_end_is_not_kept() -> None:
    session = Parser(LIMITS)
    session.open_frames()
    for _ in range(1000):
        session.feed(b"x" * 1000)
        assert session.step(1) is None
        assert session.waiting <= 2048
    session.feed(b"\n" + ping(1) + b"\n")
    first = session.step(1)
    assert isinstance(first, BadFrame)
    assert "1,000,000 bytes" in first.detail
    assert told([session.step(1)]) == [1]  # type: ignore[list-item]


def test_the_frames_behind_a_handshake_and_its_line_end() -> None:
    hello = b'{"name":"Mina","room":"dev","protocol":"json"}'
    for data in (hello + ping(1), hello + b"\n" + ping(1), hello + b"\r\n\r\n" + ping(1)):
        for chunks in ([data + b"\n"], bytewise(data + b"\n")):
            session = Parser(Limits(), State.HANDSHAKE)
            found: list[Any] = []
            for chunk in chunks:
                session.feed(chunk)
                while (step := session.step(1)) is not None:
                    if not found:
                        session.open_frames()
                    found.append(step)
            assert told(found[1:]) == [1]
