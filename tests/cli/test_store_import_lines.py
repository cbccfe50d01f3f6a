"""`chatserver import`: lines that it takes, and lines for which it imports nothing."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_files import FOUND, chatserver, content, make, refused

from chatapi.cli.importing import BadLine, Import
from chatapi.core.names import check_name
from chatapi.protocol.json.rendering import JSON, frame

HEADER = {
    "type": "room",
    "name": "dev",
    "epoch": "one-life",
    "seq": 3,
    "ts": 30,
    "first": 1,
    "trimmed_ts": 0,
}


KEPT = [
    '{"type": "message", "seq": 1, "ts": 10, "name": "Mina", "text": ""}',
    '{"type": "message", "seq": 2, "ts": 20, "name": "Zoe", "text": "bye"}',
    '{"type": "deleted", "seq": 3, "ts": 30, "name": "Mina", "target": 1}',
]


def test_the_lines_that_are_made_worse_below_are_good(tmp_path: Path) -> None:
    assert chatserver("import", tmp_path / "new.db", "dev", lines="\n".join([json.dumps(HEADER), *KEPT])).code == 0
    assert chatserver("import", tmp_path / "new.db", "ops", lines=FOUND).code == 0
    assert chatserver("check", tmp_path / "new.db").out == "ok: 2 rooms, 3 messages\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("hello", "it is not JSON: expected value at line 1 column 1"),
        (FOUND[:-1], "it is not JSON: EOF while parsing an object"),
        (b'{"name": "Mina", "text": "\xff"}', "it is not JSON: invalid unicode code point"),
        ('{"name": "Mina", "text": "\\ud800"}', "it is not JSON: "),
        ("[1, 2]", "it is not a JSON object"),
        ('"hello"', "it is not a JSON object"),
        ('{"text": "hello"}', "it has no 'name'"),
        ('{"name": "Mina"}', "it has no 'text'"),
        ('{"name": "Mina", "text": 5}', "'text': input should be a valid string"),
        ('{"name": "Mina", "text": null}', "'text': input should be a valid string"),
        ('{"name": "", "text": "hello"}', "'name': the name is empty"),
        ('{"name": "Mina Murray", "text": "hello"}', "'name': the name has white space"),
        ('{"name": "@Mina", "text": "hello"}', "'name': the name starts with '@'"),
        ('{"name": "Mina", "text": ""}', "its text is empty"),
        ('{"name": "Mina", "text": "\\n\\u0007\\n"}', "its text is empty"),
        ('{"name": "Mina", "text": "hello", "ts": 1}', "it has a 'ts', unlike the lines before it"),
        ('{"name": "Mina", "text": "hello", "ts": "now"}', "'ts': input should be a valid integer"),
        ('{"name": "Mina", "text": "hello", "ts": 1.5}', "'ts': input should be a valid integer"),
        ('{"name": "Mina", "text": "hello", "ts": -1}', "'ts': input should be greater than or equal to 0"),
        ('{"name": "Mina", "text": "hello", "ts": 1700000000000000000}', "'ts': input should be less than or equal"),
        ('{"type": "joined", "name": "Mina", "text": "x"}', "a line of the type 'joined' is not allowed here"),
        ('{"type": 5, "name": "Mina", "text": "x"}', "a line of the type 5 is not allowed here"),
        (KEPT[2], "a line of the type 'deleted' is not allowed here"),
        (json.dumps(HEADER), "a line of the type 'room' is not allowed here"),
    ],
)
def test_one_bad_line_from_somewhere_else_and_nothing_is_imported(line: str | bytes, why: str, tmp_path: Path) -> None:
    line = line.encode() if isinstance(line, str) else line
    path = tmp_path / "dev.ndjson"
    path.write_bytes(FOUND.encode() + b"\n" + line + b"\n" + FOUND.encode())
    error = refused("import", tmp_path / "new.db", "dev", path)
    assert error.startswith(f"{str(path)!r}, line 2: {why}"), error
    assert error.endswith("; nothing was imported")
    assert chatserver("rooms", tmp_path / "new.db") == (0, "", "")


@pytest.mark.parametrize(
    ("number", "line", "why"),
    [
        (1, json.dumps(HEADER | {"seq": "3"}), "'seq': input should be a valid integer"),
        (1, json.dumps(HEADER | {"epoch": ""}), "'epoch': string should have at least 1 character"),
        (1, json.dumps(HEADER | {"first": 0}), "'first': input should be greater than or equal to 1"),
        (1, json.dumps(HEADER | {"first": 5}), "'first' is 5; at most 4 is allowed, because 'seq' is 3"),
        (1, json.dumps(HEADER | {"seq": 1 << 40}), "'seq': input should be less than or equal to 1099511627775"),
        (1, json.dumps({key: value for key, value in HEADER.items() if key != "trimmed_ts"}), "it has no 'trimmed_ts'"),
        (2, json.dumps(HEADER), "a line of the type 'room' is not allowed here"),
        (3, KEPT[1].replace('"type": "message", ', ""), "it has no 'type'"),
        (3, KEPT[1].replace("message", "joined"), "a line of the type 'joined' is not allowed here"),
        (3, KEPT[1].replace('"seq": 2', '"seq": 3'), "seq 2 is expected here, not 3"),
        (3, KEPT[1].replace('"seq": 2', '"seq": 1'), "seq 2 is expected here, not 1"),
        (3, KEPT[1].replace('"seq": 2, ', ""), "it has no 'seq'"),
        (3, KEPT[1].replace('"ts": 20', '"ts": 10'), "its ts 10 is not above 10, the ts of the message before it"),
        (3, KEPT[1].replace('"ts": 20', '"ts": 9'), "its ts 9 is not above 10, the ts of the message before it"),
        (3, KEPT[1].replace("Zoe", "Z:oe"), "'name': the name has a ':'"),
        (3, KEPT[1].replace("bye", ""), "the text is empty, but no later line deletes seq 2"),
        (4, KEPT[2].replace('"target": 1', '"target": 3'), "it deletes seq 3, but no message before it has that seq"),
        (4, KEPT[2].replace('"target": 1', '"target": 0'), "'target': input should be greater than or equal to 1"),
        (4, KEPT[2].replace(', "target": 1', ""), "it has no 'target'"),
        (
            4,
            KEPT[2].replace('"ts": 30', '"ts": 31'),
            "the lines end with seq 3 and ts 31, and not with seq 3 and ts 30",
        ),
        (2, KEPT[2].replace('"target": 1', '"target": 2'), "the text is empty, but no later line deletes seq 1"),
        (5, KEPT[1].replace('"seq": 2, "ts": 20', '"seq": 4, "ts": 40'), "seq 4 is above 3, the seq of the header"),
    ],
)
def test_one_bad_line_of_an_export_and_nothing_is_imported(number: int, line: str, why: str, tmp_path: Path) -> None:
    lines = [json.dumps(HEADER), *KEPT]
    place = 4 if '"deleted"' in line else number  # a fault that shows only later is reported at its own line
    lines[place - 1 : place] = [line]
    path = tmp_path / "dev.ndjson"
    path.write_text("\n".join(lines))
    chat = make(tmp_path / "chat.db", "ops")
    error = refused("import", chat, "dev", path)
    assert error.startswith(f"{str(path)!r}, line {number}: {why}"), error
    assert error.endswith("; nothing was imported")
    assert [room["name"] for room in chatserver("rooms", chat).lines] == ["ops"]
    assert chatserver("check", chat).out == "ok: 1 room, 9 messages\n"


def test_only_messages_can_be_deleted_and_more_than_once(tmp_path: Path) -> None:
    lines = [json.dumps(HEADER), KEPT[0], KEPT[2].replace("3", "2", 1).replace("30", "20"), KEPT[2]]
    assert chatserver("import", tmp_path / "new.db", "dev", lines="\n".join(lines)).code == 0
    assert chatserver("check", tmp_path / "new.db").out == "ok: 1 room, 1 message\n"
    lines[3] = KEPT[2].replace('"target": 1', '"target": 2')
    error = refused("import", tmp_path / "new.db", "ops", lines="\n".join(lines))
    assert error.startswith("line 4: it deletes seq 2, but no message before it has that seq"), error


def test_the_end_of_an_export_is_missed(tmp_path: Path) -> None:
    lines = chatserver("export", make(tmp_path / "chat.db"), "dev").out.splitlines()
    error = refused("import", tmp_path / "new.db", "dev", lines="\n".join(lines[:-1]))
    assert error.startswith("line 11: the lines end with seq 10 "), error
    cut = tmp_path / "cut.ndjson"
    cut.write_text("\n".join(lines)[:-5])
    error = refused("import", tmp_path / "new.db", "dev", cut)
    assert error.startswith(f"{str(cut)!r}, line 12: it is not JSON: "), error


@pytest.mark.parametrize("lines", ["", "\n \n\r\n"])
def test_nothing_is_no_room(lines: str, tmp_path: Path) -> None:
    assert refused("import", tmp_path / "new.db", "dev", lines=lines).startswith("line 1: there is nothing to import")
    assert content(tmp_path) == {}


def test_a_deletion_empties_the_deleted_text(tmp_path: Path) -> None:
    """Someone who wants to remove a message from a backup can add a line to it."""
    lines = [json.dumps(HEADER), KEPT[0].replace('"text": ""', '"text": "a secret"'), *KEPT[1:]]
    assert chatserver("import", tmp_path / "new.db", "dev", lines="\n".join(lines)).code == 0
    assert [line.get("text") for line in chatserver("export", tmp_path / "new.db", "dev").lines[1:]] == [
        "",
        "bye",
        None,
    ]
    assert b"a secret" not in (tmp_path / "new.db").read_bytes()
    assert chatserver("check", tmp_path / "new.db").code == 0


_names = st.sampled_from(["Mina", "Zoë", "李雷"]).map(check_name)
_texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(lambda text: text.strip("\n") or "x")
_said = st.tuples(_names, st.lists(_texts, min_size=1, max_size=3).map("\n".join), st.integers(1, 3))


@given(st.lists(_said, min_size=1), st.lists(st.integers(1, 40)), st.integers(0, 5))
def test_any_history_comes_out_of_an_import_as_it_went_in(
    history: list[tuple[str, str, int]], deletions: list[int], trimmed: int
) -> None:
    seq, ts = trimmed, 1000
    records: list[dict[str, Any]] = []
    for name, text, later in history:
        seq, ts = seq + 1, ts + later
        records.append({"type": "message", "seq": seq, "ts": ts, "name": name, "text": text})
    for target in sorted(deletions):
        if target <= len(history):
            records[target - 1]["text"] = ""
            seq, ts = seq + 1, ts + 1
            records.append({"type": "deleted", "seq": seq, "ts": ts, "name": "mod", "target": target + trimmed})
    header = frame("room", name="dev", epoch="e", seq=seq, ts=ts, first=trimmed + 1, trimmed_ts=trimmed and 1000)
    lines = b"".join(frame(record.pop("type"), **record) for record in records)
    coming = Import(io.BytesIO(header + lines), 0, lambda done: None)
    entries = list(coming.entries())
    assert b"".join(map(JSON.entry, entries)) == lines
    assert coming.room("dev")[2:] == ("dev", "e", trimmed, trimmed and 1000, trimmed + 1, seq, ts)


@given(st.lists(st.sampled_from([json.dumps(HEADER), *KEPT, FOUND, "{}", '{"type": []}', "\xff"]) | st.text()))
def test_any_input_is_taken_or_is_a_bad_line(lines: list[str]) -> None:
    source = io.BytesIO("\n".join(lines).encode("latin-1", "replace"))
    taken = 0
    with contextlib.suppress(BadLine):
        for entry in Import(source, 5, lambda done: None).entries():
            taken += entry.count
    assert taken <= source.getvalue().count(b"\n") + 1
