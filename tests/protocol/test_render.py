"""What a room's log looks like to each of its members."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_json

from chatapi.core.entries import AnyEntry, Arrived, Departed, NameChanged, Said
from chatapi.core.log import Log
from chatapi.core.style import Batch, Style
from chatapi.protocol.json.rendering import JSON
from chatapi.protocol.text.rendering import TELNET, TEXT, TEXT_WITH_NOTICES

MINA, ZOE = 1, 2
STYLES = pytest.mark.parametrize("style", [TEXT, TEXT_WITH_NOTICES, TELNET], ids=["text", "notices", "telnet"])


@pytest.mark.parametrize(
    ("entry", "text", "telnet"),
    [
        (Said(MINA, "Mina", b"hi\n", 1), "Mina:hi\n", "Mina: hi\r\n"),
        (Said(MINA, "Mina", b"a:b\n\tc\n", 2), "Mina:a:b\nMina:\tc\n", "Mina: a:b\r\nMina: \tc\r\n"),
        (Said(MINA, "Mina", b"one\ntwo\n", 1), "Mina:one\nMina:two\n", "Mina: one\r\nMina: two\r\n"),
        (Said(MINA, "Zoë", "ü\n".encode(), 1), "Zoë:ü\n", "Zoë: ü\r\n"),
        (Said(MINA, "Mina", b"* Zoe left\n", 1), "Mina:* Zoe left\n", "Mina: * Zoe left\r\n"),
    ],
)
def test_every_line_that_is_said_begins_with_its_authors_name(entry: Said, text: str, telnet: str) -> None:
    assert TEXT.entry(entry).decode() == TEXT_WITH_NOTICES.entry(entry).decode() == text
    assert TELNET.entry(entry).decode() == telnet


@pytest.mark.parametrize(
    ("entry", "notice"),
    [
        (Arrived(MINA, "Mina"), "* Mina joined"),
        (Departed(MINA, "Mina", "bye"), "* Mina left"),
        (Departed(MINA, "Mina", "moved"), "* Mina left for another room"),
        (Departed(MINA, "Mina", "slow_consumer"), "* Mina left (slow_consumer)"),
        (NameChanged(MINA, "Mina", "Minna", quiet=False), "* Mina is now Minna"),
        (NameChanged(MINA, "Mina", "Minna", quiet=True), ""),
    ],
)
def test_notices_go_to_members_that_asked_for_them(entry: AnyEntry, notice: str) -> None:
    assert TEXT.entry(entry) == b""
    assert TEXT_WITH_NOTICES.entry(entry).decode() == (f"{notice}\n" if notice else "")
    assert TELNET.entry(entry).decode() == (f"{notice}\r\n" if notice else "")


@STYLES
@pytest.mark.parametrize("echo", [True, False])
def test_ones_own_lines_come_back_where_echo_is_on(style: Style, echo: bool) -> None:
    said = Said(MINA, "Mina", b"a\nb\n", 2)
    assert style.own(said, echo) == (style.entry(said) if echo else b"")


@STYLES
@pytest.mark.parametrize("echo", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_one_is_always_told_of_ones_own_rename_and_never_of_ones_own_coming_and_going(
    style: Style, echo: bool, quiet: bool
) -> None:
    renamed = style.own(NameChanged(MINA, "Mina", "Minna", quiet), echo)
    assert renamed == b"* you are now Minna" + style.end
    assert style.own(Arrived(MINA, "Mina"), echo) == b""
    assert style.own(Departed(MINA, "Mina", "bye"), echo) == b""


def entries() -> list[AnyEntry]:
    log = Log(1 << 20, 1 << 10)
    log.append(Arrived(ZOE, "Zoe"))  # before the batch
    happened: list[AnyEntry] = [
        Said(MINA, "Mina", b"1\n2\n", 2),
        Arrived(ZOE, "Zoe"),
        Said(ZOE, "Zoe", b"3\n", 1),
        NameChanged(MINA, "Mina", "Minna", quiet=False),
        Said(MINA, "Minna", b"4\n", 1),
    ]
    for entry in happened:
        log.append(entry)
    return happened


def test_a_batch_is_the_same_stream_for_everybody_but_for_ones_own_part_in_it() -> None:
    batch = Batch(entries())
    assert (batch.start, batch.end) == (1, 7)
    assert batch.for_reader(TEXT, 3, echo=False) == b"Mina:1\nMina:2\nZoe:3\nMinna:4\n"
    assert batch.for_reader(TEXT, ZOE, echo=False) == b"Mina:1\nMina:2\nMinna:4\n"
    assert batch.for_reader(TEXT, MINA, echo=False) == b"Zoe:3\n* you are now Minna\n"
    assert batch.for_reader(TEXT, MINA, echo=True) == b"Mina:1\nMina:2\nZoe:3\n* you are now Minna\nMinna:4\n"
    assert batch.for_reader(TEXT_WITH_NOTICES, MINA, echo=False) == b"* Zoe joined\nZoe:3\n* you are now Minna\n"
    assert batch.for_reader(TELNET, ZOE, echo=False) == b"Mina: 1\r\nMina: 2\r\n* Mina is now Minna\r\nMinna: 4\r\n"


def test_members_that_caused_nothing_share_the_very_same_bytes() -> None:
    batch = Batch(entries())
    assert batch.for_reader(TEXT, 3, echo=False) is batch.for_reader(TEXT, 4, echo=True) is batch.shared(TEXT)


def test_what_one_member_gets_leaves_no_trace_in_what_others_get() -> None:
    batch, fresh = Batch(entries()), Batch(entries())
    for reader in (MINA, ZOE):
        batch.for_reader(TEXT, reader, echo=False)
    assert batch.for_reader(TEXT, ZOE, echo=True) == fresh.for_reader(TEXT, ZOE, echo=True)
    assert batch.shared(TEXT) == fresh.shared(TEXT)


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=2, max_size=40),
    data=st.data(),
    seq=st.integers(1, 5000) | st.integers(1, 1 << 40),
    ts=st.integers(1, 5000) | st.integers(1, 1 << 53),
)
def test_a_run_of_messages_is_rendered_as_each_message_alone(
    texts: list[str], data: st.DataObject, seq: int, ts: int
) -> None:
    id_ = st.none() | st.text(min_size=1, max_size=4) | st.sampled_from([",", '","'])
    ids = data.draw(st.none() | st.tuples(*[id_] * len(texts)))
    run = Said(MINA, 'Mi"na', "".join(text + "\n" for text in texts).encode(), len(texts), ids)
    run.seq, run.ts, run.ack_tells = seq, ts, ()
    each = [
        {"type": "message", "seq": seq + i, "ts": ts + i, "name": 'Mi"na', "text": text} for i, text in enumerate(texts)
    ]
    acks = [{"type": "ack", "id": ids and ids[i], "seq": seq + i, "ts": ts + i} for i in range(len(texts))]
    assert JSON.entry(run) == b"".join(to_json(frame) + b"\n" for frame in each)
    echoed = [frame | ({"id": ids[i]} if ids and ids[i] is not None else {}) for i, frame in enumerate(each)]
    assert JSON.own(run, echo=True) == b"".join(to_json(frame) + b"\n" for frame in echoed)
    assert JSON.own(run, echo=False) == b"".join(to_json(frame) + b"\n" for frame in acks)
