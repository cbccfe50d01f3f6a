"""Messages of the JSON protocol that arrive together: they are taken at once, and nobody can tell from the outside."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import Parser, State
from profiles import examples
from speakers import Speaker, chat, release

from chatapi.brokers.sqlite.broker import SQLiteBroker
from chatapi.core.entries import Said
from chatapi.errors import RefusalCode, Refused
from chatapi.limits import Limits
from chatapi.protocol.json.frames import Messages, may_be_alike, parse_alike
from chatapi.testing import ChatKit, LateBroker

LIMITS = Limits(line_bytes=256, frame_bytes=1024)


def steps(chunks: list[bytes], most: int, limits: Limits = LIMITS) -> list[Any]:
    """Return the steps of a stream if `most` lines are taken at once; a message is its text and its id."""
    session = Parser(limits, State.FRAMES)
    found: list[Any] = []
    for chunk in [*chunks, None]:
        if chunk is None:
            session.end()
        else:
            session.feed(chunk)
        while (step := session.step(most)) is not None:
            if isinstance(step, Messages):
                texts = step.block.decode().split("\n")[:-1]
                assert len(texts) == step.number <= most
                assert len(step.ids) in (0, step.number)
                found += zip(texts, step.ids or [None] * len(texts), strict=True)
            else:
                found.append((step.text, step.id) if type(step).__name__ == "Say" else step)
    return found


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


SHAPES = [
    '{"type":"message","text":%s}',
    '{"type": "message", "text": %s}',
    '{"text":%s,"type":"message"}',
    '{"type":"message","text":%s,"id":%s}',
    '{"type":"message","id":%s,"text":%s}',
    ' { "id" : %s , "type" : "message" , "text" : %s } \r',
    '{"type":"message","text":%s,"room":"dev"}',
    '{"type":"message","text":%s,"text":%s}',
    '{"type":"message","id":%s,"id":%s,"text":"a"}',
    '{"type":"message","text":{"id":%s}}',
    '{"type":"ping","ref":%s}',
    "%s",
    "",
]
STRINGS = st.sampled_from(
    [
        *(
            '""',
            '"a"',
            '"message"',
            '"a\\"b"',
            '"a\\\\"',
            '"\\u0041"',
            '"a\\nb"',
            '"ü漢字"',
            '"\x7f"',
            '"a\tb"',
            '"\u202ea"',
        ),
        *('"\u2028"', '"%s"' % ("x" * 64), '"%s"' % ("x" * 65), '"%s"' % ("x" * 257), "1", "null", '"a', 'b"', "a"),
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=9).map(json.dumps)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames of few shapes, so that there are runs of them, and some bytes that are wrong."""
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        shape, plain = draw(st.sampled_from(SHAPES)), draw(st.booleans())
        strings = st.sampled_from(['"a"', '"bc"', '"d e"']) if plain else STRINGS
        for _ in range(draw(st.integers(1, 9))):
            lines.append(shape % tuple(draw(strings) for _ in range(shape.count("%s"))))
    data = bytearray("\n".join([*lines, ""]).encode())
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.sampled_from([b"", b"\n", b"\0", b'"', b"\xff", b"}", b"\\"]))
    return bytes(data)


FOUR = b'{"type":"message","text":"a"}\n' * 4


@examples(300)
@given(data=streams(), cuts=st.lists(st.integers(0, 2000), max_size=3), most=st.integers(2, 40))
@example(data=FOUR.replace(b'a"}\n', b"a\n", 1), cuts=[], most=9)
@example(data=b'{"type":"message","id":"a","text":"b"}\n' * 3 + b'{"type":"message","id":"a\0b"}\n', cuts=[], most=9)
def test_messages_that_are_taken_at_once_are_what_they_are_one_by_one(data: bytes, cuts: list[int], most: int) -> None:
    assert steps(cut(data, cuts), most) == steps([data], 1)


@pytest.mark.parametrize("shape", [SHAPES[i] for i in (0, 1, 2, 3, 4, 5)])
def test_frames_of_any_shape_are_taken_at_once(shape: str) -> None:
    strings = [(f'"{i}"',) * shape.count("%s") for i in range(30)]
    lines = "".join(shape % some + "\n" for some in strings).encode()
    assert may_be_alike(lines, 0, len(lines), ids=True)
    messages = parse_alike(lines, 0, len(lines), 1000)
    assert messages is not None
    assert messages.end == len(lines)
    assert messages.block == b"".join(b"%d\n" % i for i in range(30))
    assert messages.ids == (tuple(map(str, range(30))) if "id" in shape else ())


# Said in a room


def message(text: str, id_: str | None = None) -> str:
    return json.dumps({"type": "message", "text": text} | ({} if id_ is None else {"id": id_})) + "\n"


def pair(late: bool, **options: Any) -> tuple[ChatKit, Speaker, Speaker]:
    kit = chat(late, **options)
    mina, zoe = Speaker(kit), Speaker(kit, "Zoe")
    release(kit)
    for one in (mina, zoe):
        one.frames()
    return kit, mina, zoe


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("with_ids", [False, True])
def test_messages_that_come_together_are_one_entry_of_the_log(late: bool, with_ids: bool) -> None:
    kit, mina, zoe = pair(late)
    ids = [f"m{i}" if with_ids else None for i in range(40)]
    mina.peer.send("".join(message(f"text {i}", id_) for i, id_ in enumerate(ids)))
    release(kit)
    assert [(ack["type"], ack["id"], ack["seq"]) for ack in mina.frames()] == [
        ("ack", id_, i + 1) for i, id_ in enumerate(ids)
    ]
    assert [(said["seq"], said["text"]) for said in zoe.frames()] == [(i + 1, f"text {i}") for i in range(40)]
    assert [said.count for said in kit.hub.rooms["dev"].log.before(1000) if isinstance(said, Said)] == [40]


@given(
    ids=st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 1500), max_size=3),
    late=st.booleans(),
    remember_ids=st.sampled_from([4, 1024]),
)
def test_an_id_is_said_once_wherever_it_is_repeated(
    ids: list[str], cuts: list[int], late: bool, remember_ids: int
) -> None:
    """Messages that come together get the same answers, and are shown the same, as messages that come alone."""
    told = []
    for together in (True, False):
        kit, mina, zoe = pair(late, limits=Limits(rate=0, remember_ids=remember_ids))
        data = [message(f"text {i}", id_).encode() for i, id_ in enumerate(ids)]
        for chunk in filter(None, cut(b"".join(data), cuts) if together else data):
            mina.peer.send(chunk)
            if not together:
                release(kit)
        for _ in ids:
            release(kit)
        told.append((sorted(outline(mina.frames())), outline(zoe.frames())))
    assert told[0] == told[1]


def outline(frames: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(frame["seq"], frame.get("id"), str(frame.get("text")), "duplicate" in frame) for frame in frames]


def test_messages_that_are_refused_together_can_be_sent_again() -> None:
    kit, mina, zoe = pair(True)
    broker = kit.broker
    assert isinstance(broker, LateBroker)
    lines = "".join(message(f"text {i}", f"m{i}") for i in range(20))
    broker.failing = Refused(RefusalCode.UNAVAILABLE, "the disk is full")
    mina.peer.send(lines)
    release(kit)
    assert [(frame["type"], frame["id"], frame["code"]) for frame in mina.frames()] == [
        ("error", f"m{i}", "unavailable") for i in range(20)
    ]
    assert zoe.frames() == []
    size = kit.hub.sessions.size
    broker.failing = None
    for _ in range(2):
        mina.peer.send(lines)
        release(kit)
    acks = [(frame["id"], frame["seq"], "duplicate" in frame) for frame in mina.frames()]
    assert acks == [(f"m{i}", i + 1, again) for again in (False, True) for i in range(20)]
    assert len(zoe.frames()) == 20
    assert kit.hub.sessions.size > size


def test_a_session_holds_no_texts_once_they_have_their_places() -> None:
    """Whether its messages came one by one or together."""
    sizes = []
    for together in (True, False):
        kit, mina, _ = pair(True)
        lines = [message("x" * 1000, f"m{i:02}") for i in range(20)]
        for data in ["".join(lines)] if together else lines:
            mina.peer.send(data)
            kit.settle()
        assert kit.hub.sessions.size > 20_000
        release(kit)
        mina.peer.send(message("last", "last"))
        release(kit)
        sizes.append(kit.hub.sessions.size)
    assert sizes[0] == sizes[1] < 20_000


def test_answers_to_what_is_said_again_wait_for_a_member_that_does_not_read() -> None:
    kit, mina, _ = pair(False, limits=Limits(rate=0, lane_bytes=4096))
    ids = [f"m{i}" for i in range(100)]
    mina.peer.send("".join(message("x" * 500, id_) for id_ in ids))
    mina.frames()
    mina.peer.transport.capacity = 0
    mina.peer.send("".join(message("y", id_) for id_ in ids))  # each answer has the text that was kept
    kit.settle()
    client = kit.hub.rooms["dev"].member("Mina")
    assert client is not None
    assert client.lane_size < 4096 + 1000
    mina.peer.transport.capacity = 1 << 30
    answers = mina.frames()
    assert [(answer["id"], answer["seq"], answer["duplicate"], answer["text"]) for answer in answers] == [
        (id_, i + 1, True, "x" * 500) for i, id_ in enumerate(ids)
    ]


def test_a_member_pays_for_each_message_once() -> None:
    kit, mina, zoe = pair(False, limits=Limits(rate=10, burst=20))
    lines = [message(f"text {i}", f"m{i}") for i in range(10)]
    mina.peer.send("".join(lines * 2 + [message("more", "more")]))
    assert len(mina.frames()) == 20
    assert len(zoe.frames()) == 10
    kit.wait(0.2)
    assert [frame["id"] for frame in mina.frames()] == ["more"]


@pytest.mark.anyio
async def test_messages_that_came_together_are_known_after_a_restart(tmp_path: Path) -> None:
    lines = "".join(message(f"text {i}", f"m{i}") for i in range(20))
    path = tmp_path / "chat.db"
    async with ChatKit(broker=lambda clock: SQLiteBroker(path, clock=clock)).running() as kit:
        mina = Speaker(kit)
        mina.peer.send(lines)
        await kit.settled()
        places = [(frame["id"], frame["seq"], frame["ts"]) for frame in mina.frames() if frame["type"] == "ack"]
        [run] = [said for said in kit.hub.rooms["dev"].log.before(1000) if isinstance(said, Said)]
        assert run.count == len(places) == 20
    async with ChatKit(broker=lambda clock: SQLiteBroker(path, clock=clock)).running() as kit:
        back = Speaker(kit, resume=mina.resume(0, 0))
        await kit.settled()
        missed = [frame for frame in back.frames() if "seq" in frame and frame["type"] != "welcome"]
        assert [(frame["type"], frame["id"], frame["seq"], frame["ts"]) for frame in missed] == [
            ("ack", *place) for place in places
        ]
        back.peer.send(lines)
        again = back.frames()
        assert [(frame["id"], frame["seq"], frame["ts"], frame["duplicate"]) for frame in again] == [
            (*place, True) for place in places
        ]


def test_a_message_that_waits_for_one_with_its_id_is_sent_again_if_that_one_is_refused() -> None:
    kit, mina, _ = pair(True)
    assert isinstance(kit.broker, LateBroker)
    kit.broker.failing = Refused(RefusalCode.UNAVAILABLE, "the disk is full")
    mina.peer.send("".join(message(f"text {id_}", id_) for id_ in ("1", "2", "1")))
    release(kit, 1)  # the first two are one run
    assert [(frame["type"], frame["id"]) for frame in mina.frames()] == [("error", "1"), ("error", "2")]
    kit.broker.failing = None
    release(kit)
    ack = mina.frame()
    assert (ack["type"], ack["id"], ack["seq"]) == ("ack", "1", 1)
    assert "duplicate" not in ack
