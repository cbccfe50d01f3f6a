"""A member that does not read holds one chunk: what is rendered for it is counted as it will be sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from speakers import Speaker

from chatapi import Limits
from chatapi.core.entries import AnyEntry, Arrived, Deletion, Departed, NameChanged, Said
from chatapi.core.fanout import is_small
from chatapi.core.log import Log, chunk
from chatapi.core.names import GO, OURS, Naming
from chatapi.core.style import Batch, Style
from chatapi.limits import CHUNK_BYTES, NAME_CHARS
from chatapi.protocol.json.rendering import JSON
from chatapi.protocol.text.rendering import TELNET, TEXT, TEXT_WITH_NOTICES
from chatapi.testing import ChatKit, Peer

MOST = CHUNK_BYTES * 5 // 4
STYLES = pytest.mark.parametrize(
    "style", [TEXT, TEXT_WITH_NOTICES, TELNET, JSON], ids=["text", "notices", "telnet", "json"]
)
LIMITS = Limits(rate=0, grace=60)

chars = st.text('aé\U0001f600"\\', min_size=1, max_size=NAME_CHARS)
lines = st.lists(st.text('x"\\\té\U0001f600', min_size=1, max_size=40), min_size=1, max_size=30)
refs = st.none() | st.integers() | st.text(max_size=64)


@st.composite
def runs(draw: st.DrawFn) -> Said:
    texts, one = draw(lines), draw(st.booleans())
    ids = (draw(st.text(min_size=1, max_size=64)),) if one and draw(st.booleans()) else None
    said = Said(1, draw(chars), "".join(f"{text}\n" for text in texts).encode(), 1 if one else len(texts), ids)
    said.seq, said.ts = draw(st.integers(1, 1 << 40)), draw(st.integers(1, 1 << 53))
    if draw(st.booleans()):
        said.erase(said.seq)
    return said


entries = (
    runs()
    | st.builds(Arrived, st.just(1), chars)
    | st.builds(Departed, st.just(1), chars, st.sampled_from(["bye", "moved", "insufficient_state"]))
    | st.builds(NameChanged, st.just(1), chars, chars, st.booleans(), refs)
    | st.builds(Deletion, chars, st.integers(1, 1 << 40))
)


@STYLES
@given(entry=entries, echo=st.booleans())
def test_nothing_is_longer_than_it_is_measured(style: Style, entry: AnyEntry, echo: bool) -> None:
    rendered = len(style.entry(entry))
    assert max(rendered, len(style.own(entry, echo))) <= style.size(entry)
    if isinstance(entry, Said) and not entry.erased and entry.ids is None:
        assert style.size(entry) <= rendered + 4 + 8 * entry.count, "and not much shorter"


@STYLES
@given(happened=st.lists(entries, min_size=1, max_size=20))
def test_what_counts_as_small_is_not_more_than_a_chunk(style: Style, happened: list[AnyEntry]) -> None:
    if is_small(len(happened), sum(entry.weight for entry in happened), OURS.name_bytes):
        assert sum(map(style.size, happened)) <= CHUNK_BYTES


@pytest.mark.parametrize(
    ("naming", "name"),
    [(OURS, "\U0001f600" * NAME_CHARS), (GO, "\U0001f600" * 64), (GO, "x" * 256), (GO, '"' * 256), (GO, "")],
    ids=["ours", "go", "many characters", "escaped", "empty"],
)
def test_the_worst_that_counts_as_small(naming: Naming, name: str) -> None:
    for lines in range(1, 2000):
        for text, count in ((b"x\n", 1), (b"x\n", lines), (b"\n", lines)):
            said = Said(1, name, text * lines, count)
            said.seq, said.ts = 1 << 40, 1 << 53
            small = is_small(1, said.weight, naming.name_bytes)
            assert not small or max(len(style.entry(said)) for style in (TELNET, JSON)) <= CHUNK_BYTES
        if lines == 100:
            assert is_small(1, Said(1, name, b"x\n" * lines, 1).weight, naming.name_bytes)
    renamed = NameChanged(1, name, name, False, "\0" * 64)
    for number in range(1, 200):
        if is_small(number, number * renamed.weight, naming.name_bytes):
            for style in (TELNET, JSON):
                assert number * max(len(style.entry(renamed)), len(style.own(renamed, echo=False))) <= CHUNK_BYTES
    assert not is_small(100, 100 * renamed.weight, naming.name_bytes)


@STYLES
@given(happened=st.lists(entries, min_size=1, max_size=8), most=st.integers(1, 3000))
def test_chunks_are_all_there_is_in_order_and_none_is_longer_unless_it_is_one_message(
    style: Style, happened: list[AnyEntry], most: int
) -> None:
    log = Log(1 << 20, 1 << 20)
    for entry in happened:
        log.append(entry)
    position, found = 0, []
    while position < log.head:
        taken, position = log.read(position, log.head, most, style.size)
        assert len(Batch(taken).for_reader(style, 2, echo=False)) <= most * 5 // 4 or (
            len(taken) == 1 and taken[0].count == 1
        )
        found += [event for entry in taken for event in entry.events()]
    assert found == [event for entry in happened for event in entry.events()]


def test_a_run_of_lines_of_very_different_lengths_is_cut_where_it_is_full() -> None:
    said = Said(1, "Mina", (b"x" * 8000 + b"\n") * 60 + b"y\n" * 452, 512)
    for style in (TEXT, JSON):
        (first,) = chunk([said], CHUNK_BYTES, style.size)
        assert 4 <= first.count <= 8
        assert style.size(first) <= CHUNK_BYTES


# Members that do not read


def short_lines(kit: ChatKit, talker: Peer) -> None:
    talker.send("x\n" * 12_000)


def large_runs(kit: ChatKit, talker: Peer) -> None:
    talker.send(("x" * 120 + "\n") * 3_000)


def lines_to_escape(kit: ChatKit, talker: Peer) -> None:
    talker.send(('"' * 1000 + "\n") * 500)


def single_messages(kit: ChatKit, talker: Peer) -> None:
    for _ in range(500):
        talker.send("x\n")
        kit.settle()


SPOKEN = pytest.mark.parametrize("speak", [short_lines, large_runs, lines_to_escape, single_messages])
READERS = pytest.mark.parametrize(
    "reader", [{}, {"notices": True}, {"protocol": "json"}, {"protocol": "json", "echo": True}], ids=str
)


@SPOKEN
@READERS
def test_a_member_that_stalls_in_a_fan_out_holds_no_more_than_a_chunk(
    speak: Callable[[ChatKit, Peer], None], reader: dict[str, Any]
) -> None:
    kit = ChatKit(LIMITS)
    talker, slow = kit.member("t" * NAME_CHARS), kit.member("slow", capacity=1000, **reader)
    for _ in range(5):
        speak(kit, talker)
        kit.settle()
        assert 0 < slow.connection._send_buffer.waiting <= MOST
        slow.transport.take()


@pytest.mark.parametrize("echo", [True, False])
def test_a_member_that_does_not_read_its_own_messages_holds_no_more_than_a_chunk(echo: bool) -> None:
    kit = ChatKit(LIMITS)
    slow = Speaker(kit, "slow", capacity=1000, echo=echo)
    for _ in range(5):
        for number in range(300):
            slow.send("message", text='"' * 500, id=f"{number}".rjust(64, "\U0001f600"))
        kit.settle()
        assert 0 < slow.peer.connection._send_buffer.waiting <= MOST
        slow.peer.transport.take()


@SPOKEN
@READERS
def test_a_member_that_catches_up_holds_no_more_than_a_chunk_and_misses_nothing(
    speak: Callable[[ChatKit, Peer], None], reader: dict[str, Any]
) -> None:
    kit = ChatKit(LIMITS)
    talker = kit.member("t" * NAME_CHARS)
    eager, lazy = kit.member("eager", **reader), kit.member("lazy", capacity=1000, **reader)
    kit.settle()
    speak(kit, talker)
    kit.settle()
    text = b""
    lazy.transport.capacity = 5000
    while taken := lazy.transport.take():
        text += taken
        kit.settle()
        assert lazy.connection._send_buffer.waiting <= MOST
    expected = eager.received().splitlines()
    own = (b'"joined"', b'"welcome"', b" joined")
    assert [line for line in text.decode().splitlines() if not any(word.decode() in line for word in own)] == [
        line for line in expected if not any(word.decode() in line for word in own)
    ]
    assert len(expected) >= 500


def test_a_fan_out_cuts_runs_for_those_who_are_told_numbers_and_leaves_nothing_out() -> None:
    kit = ChatKit(LIMITS)
    mina, zoe = Speaker(kit, "Mina").opened(), kit.member("Zoe")
    kit.member("talker").send(('"' * 1000 + "\n") * 300)
    frames = [frame for frame in mina.frames() if frame["type"] == "message"]
    assert [frame["seq"] for frame in frames] == [*range(1, 301)]
    assert {frame["text"] for frame in frames} == {'"' * 1000}
    assert zoe.lines() == ["talker:" + '"' * 1000] * 300


def test_a_room_counts_the_styles_of_its_members() -> None:
    kit = ChatKit(LIMITS)
    room = kit.member("text").connection.client.room  # type: ignore[union-attr]
    assert room is not None
    mina = Speaker(kit, "Mina")
    mina.send("rename", to="Min")
    kit.settle()
    assert room.roster.styles == {TEXT: 1, JSON: 1}
    mina.send("join", room="ops")
    kit.settle()
    assert room.roster.styles == {TEXT: 1}
    ops = kit.hub.room("ops")
    assert ops is not None
    assert ops.roster.styles == {JSON: 1}
