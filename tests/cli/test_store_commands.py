"""`chatserver rooms`, `export`, `import` and `check` as people use them, on files that a server has written."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from executables import DEADLINE, ROOT, SERVER, Program, Server, environment
from hypothesis import given
from hypothesis import strategies as st

from chatapi.brokers.sqlite.store import RoomInfo, Store
from chatapi.brokers.sqlite.view import View
from chatapi.cli import server
from chatapi.cli.importing import BadLine, Import
from chatapi.core.entries import AnyKept, Deletion, Said
from chatapi.core.names import check_name, name_key
from chatapi.protocol.json.rendering import JSON, frame

BEGINNING = 1_700_000_000_000_000
"""The time before the first message, in microseconds since 1970."""
HEADER = {
    "type": "room",
    "name": "dev",
    "epoch": "one-life",
    "seq": 3,
    "ts": 30,
    "first": 1,
    "trimmed_ts": 0,
}


class Done(NamedTuple):
    """A sub-command that has ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What it printed, line by line."""
        return [json.loads(line) for line in self.out.splitlines()]


def chatserver(*arguments: str | Path, lines: str | bytes = b"", cwd: Path = ROOT, **env: str) -> Done:
    """Run `chatserver` with these arguments, and `lines` at its standard input."""
    done = subprocess.run(
        (sys.executable, ROOT / SERVER, *arguments),
        cwd=cwd,
        env=environment(**env),
        input=lines.encode() if isinstance(lines, str) else lines,
        capture_output=True,
        timeout=DEADLINE,
    )
    err = done.stderr.decode()
    assert "Traceback" not in err, err
    return Done(done.returncode, done.stdout.decode(), err)


@pytest.fixture
def here(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`chatserver` in this process, for tests with many small cases; without a standard input."""

    def call(*arguments: str | Path) -> Done:
        try:
            code = server.main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else -1
        return Done(code, *capfd.readouterr())

    return call


def refused(
    word: str, *arguments: str | Path, lines: str | bytes = b"", call: Callable[..., Done] | None = None
) -> str:
    """The one line with which a sub-command says that it cannot."""
    done = chatserver(word, *arguments, lines=lines) if call is None else call(word, *arguments)
    assert (done.code, done.out) == (2, ""), done
    assert re.fullmatch(rf"chatserver {word}: [^\n]+\n", done.err), done
    return done.err.removeprefix(f"chatserver {word}: ").rstrip("\n")


def said(seq: int, name: str, *texts: str) -> Said:
    """Messages that were said in one go."""
    run = Said(0, name, "".join(f"{text}\n" for text in texts).encode(), len(texts))
    run.seq, run.ts = seq, BEGINNING + 1000 * seq
    return run


def deleted(seq: int, name: str, target: int) -> Deletion:
    deletion = Deletion(name, target)
    deletion.seq, deletion.ts = seq, BEGINNING + 1000 * seq
    return deletion


def make(path: Path, *rooms: str, trimmed: int = 0) -> Path:
    """A file with rooms, all with the same history, whose oldest messages are forgotten."""
    with closing(Store(path)) as store:
        store.open()
        for name in rooms or ("Dev",):
            history: list[AnyKept] = [
                said(1, "Mina", "hello", "is anybody here?"),
                said(3, "Zoë", "oh\n  yes\nI am"),
                said(4, "Mina", "this", "should not", "be here"),
                deleted(7, "moderator", 5),
                said(8, "李雷", 'say "cheese" \\ \t 🙂'),
                said(9, "spammer", "buy!"),
                deleted(10, "moderator", 9),
                said(11, "Zoë", "bye"),
            ]
            info = RoomInfo(0, name_key(name), name, f"the-life-of-{name}", 0, 0, 1, 11, 0)
            assert store.restore(info, history) == 11
            if trimmed:
                found = store.room(info.key)
                assert found is not None
                assert store.trim(found, trimmed) == trimmed + 1
    return path


def messages(path: Path, room: str, number: int, text: str = "hello") -> Path:
    """A file with a room of that many messages, each said by itself."""
    with closing(Store(path)) as store:
        store.open()
        info = RoomInfo(0, name_key(room), room, "a-life", 0, 0, 1, number, 0)
        assert store.restore(info, (said(seq, "Mina", text) for seq in range(1, number + 1))) == number
    return path


def tamper(path: Path, *statements: str) -> None:
    """Change a file as somebody with `sqlite3` can."""
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)


def content(folder: Path) -> dict[str, bytes]:
    """Every file in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A file with the room `Dev`."""
    return make(tmp_path / "chat.db")


# Out and in again


def test_an_export_has_everything_in_order(chat: Path) -> None:
    done = chatserver("export", chat, "dev")
    assert (done.code, done.err) == (0, "")
    ts = {seq: BEGINNING + 1000 * seq for seq in range(1, 12)}
    ts[2] = ts[1] + 1  # lines that came together are a microsecond apart
    ts[5], ts[6] = ts[4] + 1, ts[4] + 2
    assert done.lines == [
        {
            "type": "room",
            "name": "Dev",
            "epoch": "the-life-of-Dev",
            "seq": 11,
            "ts": ts[11],
            "first": 1,
            "trimmed_ts": 0,
        },
        {"type": "message", "seq": 1, "ts": ts[1], "name": "Mina", "text": "hello"},
        {"type": "message", "seq": 2, "ts": ts[2], "name": "Mina", "text": "is anybody here?"},
        {"type": "message", "seq": 3, "ts": ts[3], "name": "Zoë", "text": "oh\n  yes\nI am"},
        {"type": "message", "seq": 4, "ts": ts[4], "name": "Mina", "text": "this"},
        {"type": "message", "seq": 5, "ts": ts[5], "name": "Mina", "text": ""},
        {"type": "message", "seq": 6, "ts": ts[6], "name": "Mina", "text": "be here"},
        {"type": "deleted", "seq": 7, "ts": ts[7], "name": "moderator", "target": 5},
        {"type": "message", "seq": 8, "ts": ts[8], "name": "李雷", "text": 'say "cheese" \\ \t 🙂'},
        {"type": "message", "seq": 9, "ts": ts[9], "name": "spammer", "text": ""},
        {"type": "deleted", "seq": 10, "ts": ts[10], "name": "moderator", "target": 9},
        {"type": "message", "seq": 11, "ts": ts[11], "name": "Zoë", "text": "bye"},
    ]


@pytest.mark.parametrize("trimmed", [0, 1, 3, 5, 7, 10, 11])
def test_a_room_that_is_exported_and_imported_is_the_same(
    trimmed: int, tmp_path: Path, here: Callable[..., Done]
) -> None:
    old, new = make(tmp_path / "old.db", trimmed=trimmed), tmp_path / "new.db"
    before, after = tmp_path / "before.ndjson", tmp_path / "after.ndjson"
    assert here("export", old, "Dev", before).code == 0
    assert json.loads(before.read_text().partition("\n")[0])["first"] == trimmed + 1
    assert here("import", new, "Dev", before).code == 0
    assert here("export", new, "Dev", after).code == 0
    assert after.read_bytes() == before.read_bytes()
    assert here("rooms", new).out == here("rooms", old).out
    assert here("check", new) == here("check", old)
    assert here("check", new).code == 0


def test_clients_resume_in_a_room_that_was_imported(chat: Path, tmp_path: Path) -> None:
    """Its epoch, numbers and times are the old ones, so nobody notices that the file is another one."""
    new = tmp_path / "new.db"
    chatserver("import", new, "Dev", lines=chatserver("export", chat, "Dev").out)
    resume = {"epoch": "the-life-of-Dev", "seq": 8, "ts": BEGINNING + 8000}
    with Server("-store", str(new)) as server:
        peer = server.connect()
        peer.send(json.dumps({"name": "Mina", "room": "dev", "protocol": "json", "resume": resume}) + "\n")
        welcome, *missed = (json.loads(line) for line in peer.lines(4))
        assert (welcome["recovered"], welcome["seq"]) == (True, 11)
        assert [(event["type"], event["seq"]) for event in missed] == [("message", 9), ("deleted", 10), ("message", 11)]
        peer.send('{"type": "message", "text": "and on it goes", "id": "a"}\n')
        assert json.loads(peer.line())["seq"] == 12


def test_files_instead_of_standard_input_and_output(chat: Path, tmp_path: Path) -> None:
    to, new = tmp_path / "dev.ndjson", tmp_path / "new.db"
    assert chatserver("export", chat, "Dev", to) == (0, "", "")
    assert to.read_text() == chatserver("export", chat, "Dev").out
    done = chatserver("import", new, "Dev", to)
    assert done == (0, "imported 'Dev', seq 1 to 11\n", "")
    assert chatserver("export", new, "Dev").out == to.read_text()


def test_the_name_is_the_one_that_import_is_given(chat: Path) -> None:
    lines = chatserver("export", chat, "DEV").out
    assert chatserver("import", chat, "Old-Dev", lines=lines).code == 0
    assert [room["name"] for room in chatserver("rooms", chat).lines] == ["Dev", "Old-Dev"]
    assert chatserver("export", chat, "old-dev").out.splitlines()[1:] == lines.splitlines()[1:]
    assert chatserver("check", chat).out == "ok: 2 rooms, 18 messages\n"


def test_a_room_in_the_file_is_not_overwritten(chat: Path) -> None:
    before = chatserver("export", chat, "dev").out
    error = refused("import", chat, "DEV", lines='{"name": "Mina", "text": "hello"}')
    assert error == f"{str(chat)!r} has a room 'DEV' already; an import never overwrites a room"
    assert chatserver("export", chat, "dev").out == before


def test_messages_from_somewhere_else_are_numbered_from_1_on(tmp_path: Path) -> None:
    lines = """\
{"name": "Mina", "text": "hello"}

{"name": "Mina", "text": "again\\u001b[31m", "seq": 77, "likes": 3}
{"type": "message", "name": "Zoe\\u0308", "text": "\\nfirst\\n\\nsecond\\n"}\r
{"name": "Mina", "text": "no line feed at the end"}"""
    assert chatserver("import", tmp_path / "new.db", "dev", lines=lines).code == 0
    header, *found = chatserver("export", tmp_path / "new.db", "dev").lines
    assert (header["name"], header["first"], header["seq"]) == ("dev", 1, 4)
    assert header["epoch"]
    assert [(message["seq"], message["name"], message["text"]) for message in found] == [
        (1, "Mina", "hello"),
        (2, "Mina", "again[31m"),
        (3, "Zoë", "first\nsecond"),
        (4, "Mina", "no line feed at the end"),
    ]
    times = [message["ts"] for message in found]
    assert times == sorted(set(times))
    assert header["ts"] == times[-1] > BEGINNING
    assert chatserver("check", tmp_path / "new.db").out == "ok: 1 room, 4 messages\n"


def test_times_from_somewhere_else_are_kept_as_far_as_they_differ(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"name": "Mina", "text": "hello", "ts": ts}) + "\n" for ts in (5000, 7000, 7000, 9000))
    assert chatserver("import", tmp_path / "new.db", "dev", lines=lines).code == 0
    _, *found = chatserver("export", tmp_path / "new.db", "dev").lines
    assert [message["ts"] for message in found] == [5000, 7000, 7001, 9000]


def test_two_imports_from_somewhere_else_are_two_lives(tmp_path: Path) -> None:
    for room in ("one", "two"):
        chatserver("import", tmp_path / "new.db", room, lines='{"name": "Mina", "text": "hello"}')
    one, two = chatserver("rooms", tmp_path / "new.db").lines
    assert one["epoch"] != two["epoch"]


def test_the_longest_text_that_any_server_takes(tmp_path: Path) -> None:
    text = "é" * 524_288
    lines = json.dumps({"name": "Mina", "text": text}) + "\n"
    assert chatserver("import", tmp_path / "new.db", "dev", lines=lines).code == 0
    assert chatserver("export", tmp_path / "new.db", "dev").lines[1]["text"] == text
    lines = json.dumps({"name": "Mina", "text": text + "!"}) + "\n"
    error = refused("import", tmp_path / "new.db", "ops", lines=lines)
    assert error == "line 1: its text has 1,048,577 bytes; at most 1,048,576 are allowed; nothing was imported"
    error = refused("import", tmp_path / "new.db", "ops", lines=b"x" * 9_000_000)
    assert error == "line 1: it has more than 8,388,608 bytes; nothing was imported"


# Lines that cannot be taken

FOUND = '{"name": "Mina", "text": "hello"}'
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
        ('{"name": "@Mina", "text": "hello"}', "'name': a name does not start with '@'"),
        ('{"name": "Mina", "text": ""}', "its text is empty"),
        ('{"name": "Mina", "text": "\\n\\u0007\\n"}', "its text is empty"),
        ('{"name": "Mina", "text": "hello", "ts": 1}', "it has a 'ts', unlike those before it"),
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
def test_one_bad_line_from_somewhere_else_and_nothing_is_imported(
    line: str | bytes, why: str, tmp_path: Path, here: Callable[..., Done]
) -> None:
    line = line.encode() if isinstance(line, str) else line
    path = tmp_path / "dev.ndjson"
    path.write_bytes(FOUND.encode() + b"\n" + line + b"\n" + FOUND.encode())
    error = refused("import", tmp_path / "new.db", "dev", path, call=here)
    assert error.startswith(f"{str(path)!r}, line 2: {why}"), error
    assert error.endswith("; nothing was imported")
    assert here("rooms", tmp_path / "new.db") == (0, "", "")


@pytest.mark.parametrize(
    ("number", "line", "why"),
    [
        (1, json.dumps(HEADER | {"seq": "3"}), "'seq': input should be a valid integer"),
        (1, json.dumps(HEADER | {"epoch": ""}), "'epoch': string should have at least 1 character"),
        (1, json.dumps(HEADER | {"first": 0}), "'first': input should be greater than or equal to 1"),
        (1, json.dumps(HEADER | {"first": 5}), "'first' is 5, and 'seq' only 3"),
        (1, json.dumps(HEADER | {"seq": 1 << 40}), "'seq': input should be less than or equal to 1099511627775"),
        (1, json.dumps({key: value for key, value in HEADER.items() if key != "trimmed_ts"}), "it has no 'trimmed_ts'"),
        (2, json.dumps(HEADER), "a line of the type 'room' is not allowed here"),
        (3, KEPT[1].replace('"type": "message", ', ""), "it has no 'type'"),
        (3, KEPT[1].replace("message", "joined"), "a line of the type 'joined' is not allowed here"),
        (3, KEPT[1].replace('"seq": 2', '"seq": 3'), "seq 2 is expected here, not 3"),
        (3, KEPT[1].replace('"seq": 2', '"seq": 1'), "seq 2 is expected here, not 1"),
        (3, KEPT[1].replace('"seq": 2, ', ""), "it has no 'seq'"),
        (3, KEPT[1].replace('"ts": 20', '"ts": 10'), "its ts 10 is not above 10, that of the message before it"),
        (3, KEPT[1].replace('"ts": 20', '"ts": 9'), "its ts 9 is not above 10, that of the message before it"),
        (3, KEPT[1].replace("Zoe", "Z:oe"), "'name': the name has a ':'"),
        (3, KEPT[1].replace("bye", ""), "the text is empty, and nothing deletes seq 2"),
        (4, KEPT[2].replace('"target": 1', '"target": 3'), "it deletes seq 3, which is no message before it"),
        (4, KEPT[2].replace('"target": 1', '"target": 0'), "'target': input should be greater than or equal to 1"),
        (4, KEPT[2].replace(', "target": 1', ""), "it has no 'target'"),
        (
            4,
            KEPT[2].replace('"ts": 30', '"ts": 31'),
            "the lines end with seq 3 and ts 31, and not with seq 3 and ts 30",
        ),
        (2, KEPT[2].replace('"target": 1', '"target": 2'), "the text is empty, and nothing deletes seq 1"),
        (5, KEPT[1].replace('"seq": 2, "ts": 20', '"seq": 4, "ts": 40'), "seq 4 is above the header's, 3"),
    ],
)
def test_one_bad_line_of_an_export_and_nothing_is_imported(
    number: int, line: str, why: str, tmp_path: Path, here: Callable[..., Done]
) -> None:
    lines = [json.dumps(HEADER), *KEPT]
    place = 4 if '"deleted"' in line else number  # where the fault shows only later, it is told where it is
    lines[place - 1 : place] = [line]
    path = tmp_path / "dev.ndjson"
    path.write_text("\n".join(lines))
    chat = make(tmp_path / "chat.db", "ops")
    error = refused("import", chat, "dev", path, call=here)
    assert error.startswith(f"{str(path)!r}, line {number}: {why}"), error
    assert error.endswith("; nothing was imported")
    assert [room["name"] for room in here("rooms", chat).lines] == ["ops"]
    assert here("check", chat).out == "ok: 1 room, 9 messages\n"


def test_only_messages_can_be_deleted_and_more_than_once(tmp_path: Path) -> None:
    lines = [json.dumps(HEADER), KEPT[0], KEPT[2].replace("3", "2", 1).replace("30", "20"), KEPT[2]]
    assert chatserver("import", tmp_path / "new.db", "dev", lines="\n".join(lines)).code == 0
    assert chatserver("check", tmp_path / "new.db").out == "ok: 1 room, 1 message\n"
    lines[3] = KEPT[2].replace('"target": 1', '"target": 2')
    error = refused("import", tmp_path / "new.db", "ops", lines="\n".join(lines))
    assert error.startswith("line 4: it deletes seq 2, which is no message before it"), error


def test_the_end_of_an_export_is_missed(chat: Path, tmp_path: Path) -> None:
    lines = chatserver("export", chat, "dev").out.splitlines()
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


def test_a_deletion_empties_what_it_deletes(tmp_path: Path) -> None:
    """Whoever wants a message gone from a backup can add a line to it."""
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
def test_whatever_was_said_comes_out_of_an_import_as_it_went_in(
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
def test_whatever_comes_is_taken_or_a_bad_line(lines: list[str]) -> None:
    source = io.BytesIO("\n".join(lines).encode("latin-1", "replace"))
    taken = 0
    with contextlib.suppress(BadLine):
        for entry in Import(source, 5, lambda done: None).entries():
            taken += entry.count
    assert taken <= source.getvalue().count(b"\n") + 1


# What there is


def test_rooms_lists_what_there_is(tmp_path: Path) -> None:
    make(tmp_path / "chat.db", "Ops", "dev")
    done = chatserver("rooms", tmp_path / "chat.db")
    assert (done.code, done.err) == (0, "")
    texts = "hello", "is anybody here?", "oh\n  yes\nI am", "this", "", "be here", 'say "cheese" \\ \t 🙂', "", "bye"
    common = {
        "messages": 9,
        "bytes": sum(len(text.encode()) + 1 for text in texts),
        "first": 1,
        "seq": 11,
        "ts": BEGINNING + 11_000,
    }
    assert done.lines == [{"name": name, "epoch": f"the-life-of-{name}"} | common for name in ("dev", "Ops")]


def test_a_room_that_is_not_there_is_told_with_its_nearest_names(tmp_path: Path) -> None:
    make(tmp_path / "chat.db", "Development", "ops")
    file = repr(str(tmp_path / "chat.db"))
    error = refused("export", tmp_path / "chat.db", "developmnet")
    assert error == f"{file} has no room 'developmnet'; did you mean 'Development'?"
    error = refused("export", tmp_path / "chat.db", "lounge")
    assert error == f"{file} has no room 'lounge'; `chatserver rooms` lists its 2 rooms"


def test_a_server_that_runs_is_not_in_the_way_but_for_import(chat: Path) -> None:
    with Server("-store", str(chat)) as server:
        peer = server.member("Mina", "dev", echo=True)
        peer.send("said just now\n")
        assert peer.line() == "Mina:said just now"
        header, *_, last = chatserver("export", chat, "dev").lines
        assert (header["seq"], last["seq"], last["text"]) == (12, 12, "said just now")
        assert chatserver("rooms", chat).lines[0]["seq"] == 12
        assert chatserver("check", chat).out == "ok: 1 room, 10 messages\n"
        error = refused("import", chat, "ops", lines=FOUND)
        assert error == f"{str(chat)!r} is in use by another server"
        peer.send("still here\n")
        assert peer.line() == "Mina:still here"
    assert chatserver("rooms", chat).lines[0]["seq"] == 13


def test_an_export_is_of_one_moment(tmp_path: Path) -> None:
    chat = make(tmp_path / "chat.db")
    with closing(Store(chat)) as store, closing(View(chat)) as view:
        store.open()
        view.open()
        with view.snapshot():
            info = view.room("dev")
            assert info is not None
            entries = view.entries(info)
            assert next(entries).seq == 1
            store.trim(info, 9)
            assert [entry.seq for entry in entries] == [3, 4, 7, 8, 9, 10, 11]
            assert view.room("dev") == info
        after = view.room("dev")
        assert after is not None
        assert after.first == 10


# Whether it is sound


def test_a_sound_file_is_ok(tmp_path: Path) -> None:
    make(tmp_path / "chat.db", "dev", "ops", trimmed=4)
    assert chatserver("check", tmp_path / "chat.db") == (0, "ok: 2 rooms, 10 messages\n", "")


def row(seq: int) -> str:
    """The row of the only room that begins with this message."""
    return f"place = (1 << 40) + {seq}"


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        (f"DELETE FROM log WHERE {row(4)}", "room 'Dev': seq 4 to 6 are missing"),
        (f"DELETE FROM log WHERE {row(1)}", "room 'Dev': seq 1 to 2 are missing"),
        ("UPDATE rooms SET trimmed = 2", "room 'Dev', seq 1: it comes after seq 2"),
        (f"UPDATE log SET place = place - 1 WHERE {row(3)}", "room 'Dev', seq 2: it comes after seq 2"),
        (f"UPDATE log SET ts = {BEGINNING} WHERE {row(8)}", f"room 'Dev', seq 8: its ts {BEGINNING} is not above"),
        (f"UPDATE rooms SET trimmed_ts = {2 * BEGINNING}", "room 'Dev', seq 1: its ts"),
        (f"UPDATE log SET count = 2 WHERE {row(4)}", "room 'Dev', seq 4: its 2 messages have 3 lines"),
        (f"UPDATE log SET count = 0 WHERE {row(11)}", "room 'Dev', seq 11: its ts is"),
        (f"UPDATE log SET ts = 'noon' WHERE {row(11)}", "room 'Dev', seq 11: its ts is 'noon'"),
        (f"UPDATE log SET block = x'6162' WHERE {row(11)}", "room 'Dev', seq 11: its text does not end with a line"),
        (f"UPDATE log SET block = x'' WHERE {row(11)}", "room 'Dev', seq 11: its text does not end with a line feed"),
        (f"UPDATE log SET block = x'ff0a' WHERE {row(11)}", "room 'Dev', seq 11: its text is not UTF-8"),
        (f"UPDATE log SET block = 'bye' WHERE {row(11)}", "room 'Dev', seq 11: it is neither messages nor a deletion"),
        (f"UPDATE log SET target = 3 WHERE {row(11)}", "room 'Dev', seq 11: it is neither messages nor a deletion"),
        (f"UPDATE log SET name = '' WHERE {row(11)}", "room 'Dev', seq 11: its author's name is ''"),
        (f"UPDATE log SET name = CAST(x'ff' AS TEXT) WHERE {row(11)}", "room 'Dev', seq 11: its author's name is '"),
        (
            f"UPDATE log SET target = 11 WHERE {row(10)}",
            "room 'Dev', seq 10: it deletes seq 11, which is not before it",
        ),
        (f"UPDATE log SET target = NULL WHERE {row(10)}", "room 'Dev', seq 10: it deletes seq None, which is not"),
        (f"UPDATE log SET count = 2 WHERE {row(10)}", "room 'Dev', seq 10: a deletion with a count of 2"),
        (f"UPDATE log SET block = x'6869210a' WHERE {row(9)}", "room 'Dev', seq 10: it deletes seq 9, which is not a"),
        (f"UPDATE log SET block = x'0a' WHERE {row(11)}", "room 'Dev', seq 11: it has no text, and nothing deletes it"),
        (f"UPDATE log SET block = x'610a0a0a' WHERE {row(4)}", "room 'Dev', seq 6: it has no text, and nothing"),
        ("INSERT INTO log SELECT place + (1 << 40), ts, count, name, block, target FROM log", "room number 2 does not"),
        ("UPDATE rooms SET key = 'Dev'", "room 'Dev': its key 'Dev' does not match its name, so nobody can join it"),
        ("UPDATE rooms SET epoch = ''", "room 'Dev': its epoch is ''"),
        ("UPDATE rooms SET trimmed = 'all'", "room 'Dev': it is recorded as trimmed up to seq 'all', ts 0"),
    ],
)
def test_what_a_room_cannot_be_is_a_fault(statement: str, fault: str, chat: Path, here: Callable[..., Done]) -> None:
    tamper(chat, statement)
    done = here("check", chat)
    assert (done.code, done.err) == (1, "")
    *faults, last = done.out.splitlines()
    assert faults[0].startswith(fault), faults
    assert re.fullmatch(r"\d+ faults?: 1 room, \d+ messages", last), last
    assert int(last.split()[0]) == len(faults)
    for word in ("rooms", "export"):
        done = here(word, chat, *(["dev"] if word == "export" else []))  # it may or may not matter there
        assert (done.code, done.err.count("\n")) in ((0, 0), (2, 1)), done


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        (f"UPDATE log SET block = x'ff0a' WHERE {row(8)}", 8),
        (f"UPDATE log SET count = 2 WHERE {row(4)}", 4),
        (f"DELETE FROM log WHERE {row(3)}", 3),
    ],
)
def test_an_export_goes_up_to_where_the_damage_is(
    statement: str, seq: int, chat: Path, here: Callable[..., Done]
) -> None:
    whole = here("export", chat, "dev").out.splitlines()
    tamper(chat, statement)
    done = here("export", chat, "dev")
    assert (done.code, done.out.splitlines()) == (2, whole[:seq])
    error = f"{str(chat)!r}: 'Dev' is damaged at seq {seq}; `chatserver check` tells more"
    assert done.err == f"chatserver export: {error}\n"


def test_one_hole_is_one_fault(tmp_path: Path) -> None:
    chat = messages(tmp_path / "chat.db", "dev", 1000)
    tamper(chat, f"DELETE FROM log WHERE {row(500)}")
    assert chatserver("check", chat).out == "room 'dev': seq 500 to 500 are missing\n1 fault: 1 room, 999 messages\n"


def test_a_damaged_page_is_found(tmp_path: Path) -> None:
    chat = messages(tmp_path / "chat.db", "dev", 20_000)
    pages = chat.stat().st_size // 4096
    assert pages > 100
    with chat.open("r+b") as file:
        file.seek(pages // 2 * 4096)
        file.write(b"\xa5" * 4096)
    done = chatserver("check", chat)
    assert (done.code, done.err) == (1, "")
    *faults, last = done.out.splitlines()
    assert faults
    assert all(line.startswith(("SQLite: ", "SQLite cannot read everything: ", "room ")) for line in faults), faults
    assert re.fullmatch(r"[\d,]+ faults?: 1 room, [\d,]+ messages", last)
    done = chatserver("export", chat, "dev")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "damaged; `chatserver check` tells more" in done.err
    assert len(done.lines) > 1000
    to = tmp_path / "dev.ndjson"
    to.write_text("the last good backup")
    assert chatserver("export", chat, "dev", to).code == 2
    assert to.read_text() == "the last good backup"
    assert sorted(content(tmp_path)) == ["chat.db", "chat.db-lock", "dev.ndjson"]


def test_what_sqlite_finds_is_a_fault(chat: Path) -> None:
    with chat.open("r+b") as file:
        file.seek(36)
        file.write(b"\0\0\0\7")  # how many pages of the file are free
    done = chatserver("check", chat)
    assert (done.code, done.err) == (1, "")
    fault, last = done.out.splitlines()
    assert fault.startswith("SQLite: ")
    assert "freelist" in fault.lower()
    assert last == "1 fault: 1 room, 9 messages"


def test_a_file_that_lost_its_end_is_found(tmp_path: Path) -> None:
    chat = messages(tmp_path / "chat.db", "dev", 20_000)
    os.truncate(chat, chat.stat().st_size // 2)
    done = chatserver("check", chat)
    assert (done.code, done.err) == (1, ""), done
    assert done.out.startswith("SQLite: ")
    assert "ok" not in done.out


def test_check_sees_what_a_killed_server_has_written_and_changes_nothing(chat: Path, tmp_path: Path) -> None:
    with Server("-store", str(chat)) as server:
        peer = server.member("Mina", "dev", echo=True)
        peer.send("said at last\n")
        assert peer.line() == "Mina:said at last"
        server.process.kill()
        server.process.wait(DEADLINE)
        before = content(tmp_path)
        assert before["chat.db-wal"]
        assert chatserver("check", chat).out == "ok: 1 room, 10 messages\n"
        assert chatserver("export", chat, "dev").lines[-1]["text"] == "said at last"
        assert chatserver("rooms", chat).lines[0]["seq"] == 12
        after = content(tmp_path)
        assert after.keys() == before.keys()
        assert [name for name in before if before[name] != after[name] and not name.endswith("-shm")] == []


def test_nothing_is_left_beside_a_file_that_was_looked_at(chat: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.db-lock").unlink()
    before = content(tmp_path)
    chatserver("check", chat)
    chatserver("rooms", chat)
    chatserver("export", chat, "dev")
    assert content(tmp_path) == before


def test_a_folder_that_cannot_be_written_to(chat: Path, tmp_path: Path) -> None:
    mount = f'mount --bind "{tmp_path}" "{tmp_path}" && mount -o remount,ro,bind "{tmp_path}"'
    unshared = "unshare", "-rm", "sh", "-c"
    if not shutil.which("unshare") or subprocess.run((*unshared, mount), capture_output=True).returncode:
        pytest.skip("no folder can be made read-only for a process here")

    def there(*arguments: str | Path, lines: str = "") -> Done:
        words = " ".join(f"'{argument}'" for argument in (sys.executable, ROOT / SERVER, *arguments))
        done = subprocess.run(
            (*unshared, f"{mount} && exec {words}"),
            env=environment(),
            input=lines.encode(),
            capture_output=True,
            timeout=DEADLINE,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    assert there("check", chat) == (0, "ok: 1 room, 9 messages\n", "")
    assert there("export", chat, "dev").out == chatserver("export", chat, "dev").out
    assert there("rooms", chat).out == chatserver("rooms", chat).out
    done = there("export", chat, "dev", tmp_path / "dev.ndjson")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"chatserver export: cannot write to {str(tmp_path / 'dev.ndjson')!r}: Read-only file system\n"
    done = there("import", chat, "ops", lines=FOUND)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done


# Files that are something else


def newer(path: Path) -> None:
    make(path)
    tamper(path, "PRAGMA user_version = 99")


def another_program(path: Path) -> None:
    tamper(path, "CREATE TABLE cars (wheels INTEGER)")


OTHERS = {
    "newer": (newer, "was written by a newer version of this program"),
    "another program's": (another_program, "is not a file of this chat server, but of another program"),
    "junk": (lambda path: path.write_bytes(b"junk" * 5000), "this is not a SQLite database"),
    "random": (lambda path: path.write_bytes(os.urandom(20_000)), "this is not a SQLite database"),
    "a folder": (lambda path: path.mkdir(), ""),
    "text": (lambda path: path.write_text("hello"), "this is not a SQLite database"),
}


@pytest.mark.parametrize("word", ["rooms", "export", "check", "import"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_something_else(kind: str, word: str, tmp_path: Path, here: Callable[..., Done]) -> None:
    write, why = OTHERS[kind]
    path, lines = tmp_path / "chat.db", tmp_path / "dev.ndjson"
    write(path)
    lines.write_text(FOUND)
    before = path.read_bytes() if path.is_file() else b""
    more: dict[str, list[str | Path]] = {"export": ["dev"], "import": ["dev", lines]}
    error = refused(word, path, *more.get(word, []), call=here)
    assert repr(str(path)) in error
    assert why in error
    assert not path.is_file() or path.read_bytes() == before


@pytest.mark.parametrize("word", ["rooms", "export", "check"])
def test_a_file_that_is_not_there_or_empty(word: str, tmp_path: Path, here: Callable[..., Done]) -> None:
    path, room = tmp_path / "chat.db", ["dev"] if word == "export" else []
    assert refused(word, path, *room, call=here) == f"{str(path)!r}: there is no such file"
    assert content(tmp_path) == {}
    path.touch()
    assert refused(word, path, *room, call=here) == f"{str(path)!r} is empty"
    assert content(tmp_path) == {"chat.db": b""}


def test_import_makes_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for name in ("empty.db", "new.db"):
        assert chatserver("import", tmp_path / name, "dev", lines=FOUND).code == 0
        assert chatserver("check", tmp_path / name).out == "ok: 1 room, 1 message\n"
    error = refused("import", tmp_path / "nowhere" / "new.db", "dev", lines=FOUND)
    assert error == f"{str(tmp_path / 'nowhere' / 'new.db')!r}: there is no folder {str(tmp_path / 'nowhere')!r}"


# Outputs that take nothing more, inputs that give nothing, and Ctrl-C


def test_an_output_that_is_closed_early_ends_it_quietly(tmp_path: Path) -> None:
    chat = messages(tmp_path / "chat.db", "dev", 20_000)
    with subprocess.Popen(
        (sys.executable, SERVER, "export", chat, "dev"),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["seq"] == 20_000
        process.stdout.close()
        assert process.wait(DEADLINE) == 1
        assert process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full here")
def test_an_output_that_is_full_is_one_clear_line(chat: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, ...]] = [("rooms",), ("check",), ("export", "dev")]
    for word, *room in calls:
        with open("/dev/full", "wb") as full:
            program = Program(sys.executable, SERVER, word, chat, *room, stdout=full.fileno())
        with program:
            assert program.wait() == 1
            assert program.err == f"chatserver {word}: cannot write to the standard output: No space left on device\n"
    done = chatserver("export", chat, "dev", "/dev/full")
    assert done == (1, "", "chatserver export: cannot write to '/dev/full': No space left on device\n")


def test_an_output_that_is_closed_from_the_beginning(chat: Path) -> None:
    with Program(sys.executable, SERVER, "export", chat, "dev", before=lambda: os.close(1)) as program:
        assert program.wait() == 1
        assert program.err == "chatserver export: the standard output is closed\n"


def test_an_input_that_cannot_be_read(chat: Path, tmp_path: Path) -> None:
    error = refused("import", chat, "ops", tmp_path / "nothing")
    assert error == f"cannot read {str(tmp_path / 'nothing')!r}: No such file or directory"
    assert refused("import", chat, "ops", tmp_path) == f"cannot read {str(tmp_path)!r}: Is a directory"
    with Program(sys.executable, SERVER, "import", chat, "ops", before=lambda: os.close(0)) as program:
        assert program.wait() == 2
        assert program.err == "chatserver import: the standard input is closed\n"


def test_a_path_that_cannot_be_written(chat: Path, tmp_path: Path) -> None:
    before = content(tmp_path)
    for path, why in (
        (tmp_path / "nowhere" / "dev.ndjson", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        done = chatserver("export", chat, "dev", path)
        assert done == (1, "", f"chatserver export: cannot write to {str(path)!r}: {why}\n")
    (tmp_path / "link").symlink_to(chat)
    for path in (chat, tmp_path / "link", tmp_path / "chat.db-lock"):
        assert refused("export", chat, "dev", path) == f"{str(path)!r} is a file of the store itself"
    (tmp_path / "link").unlink()
    assert content(tmp_path) == before


def test_an_older_export_is_replaced_and_stays_as_private_as_it_was(chat: Path, tmp_path: Path) -> None:
    target, link = tmp_path / "dev.ndjson", tmp_path / "latest"
    target.write_text("older and longer\n" * 1000)
    target.chmod(0o640)
    link.symlink_to(target)
    assert chatserver("export", chat, "dev", link).code == 0
    assert link.is_symlink()
    assert target.read_text() == chatserver("export", chat, "dev").out
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_pipe_by_its_name(chat: Path, tmp_path: Path) -> None:
    pipe, new = tmp_path / "pipe", tmp_path / "new.db"
    os.mkfifo(pipe)
    with Program(sys.executable, SERVER, "export", chat, "dev", pipe) as program:
        assert chatserver("import", new, "Dev", pipe).code == 0
        assert program.wait() == 0
    assert chatserver("export", new, "dev").out == chatserver("export", chat, "dev").out


def test_ctrl_c_during_an_import_leaves_nothing_behind(chat: Path) -> None:
    before = chatserver("rooms", chat).out
    with Program(sys.executable, SERVER, "import", chat, "ops") as program:
        for _ in range(20):
            program.type((FOUND + "\n") * 5000)  # more than a pipe holds: it is reading
        program.signal(signal.SIGINT)
        assert program.wait() == 130
        assert (program.out, program.err) == (b"", "")
    assert chatserver("rooms", chat).out == before
    assert chatserver("check", chat).code == 0


def test_ctrl_c_during_an_export_that_nobody_reads(tmp_path: Path) -> None:
    chat = messages(tmp_path / "chat.db", "dev", 20_000)
    to = tmp_path / "pipe"
    os.mkfifo(to)
    with Program(sys.executable, SERVER, "export", chat, "dev", to) as program:
        with to.open("rb", buffering=0) as pipe:
            assert pipe.read(10) == b'{"type":"r'
            program.signal(signal.SIGINT)
            assert program.wait() == 130
        assert program.err == ""


# The progress bar


def on_a_terminal(*arguments: str | Path) -> tuple[int, str, bytes]:
    """Run a sub-command whose standard error is a terminal: its code, what the terminal got, and its output."""
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            (sys.executable, SERVER, *arguments),
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=theirs,
        )
        os.close(theirs)
        out, _ = process.communicate(timeout=DEADLINE)
        shown = b""
        try:
            while data := terminal.read(4096):
                shown += data
        except OSError:
            pass  # that is how the end of a terminal looks
    return process.returncode, shown.decode(), out


def test_long_work_shows_how_far_it_is_on_a_terminal(tmp_path: Path) -> None:
    chat, to = messages(tmp_path / "chat.db", "dev", 5_000), tmp_path / "dev.ndjson"
    bar = r"(\r{} \[#*\.*\] +\d+%\x1b\[K)+\r\x1b\[K"
    code, shown, out = on_a_terminal("export", chat, "dev", to)
    assert (code, out) == (0, b"")
    assert re.fullmatch(bar.format("exporting 'dev'"), shown), shown
    code, shown, out = on_a_terminal("import", chat, "ops", to)
    assert (code, out) == (0, b"imported 'ops', seq 1 to 5000\n")
    assert re.fullmatch(bar.format("importing 'ops'"), shown), shown
    code, shown, out = on_a_terminal("check", chat)
    assert (code, out) == (0, b"ok: 2 rooms, 10,000 messages\n")
    assert re.fullmatch(bar.format(f"checking {re.escape(repr(str(chat)))}"), shown), shown


# How they are called


def test_the_server_s_help_names_them() -> None:
    out = chatserver("-h").out
    for usage in ("rooms FILE", "export FILE ROOM [PATH]", "import FILE ROOM [PATH]", "check FILE"):
        assert f"\n  chatserver {usage} " in out


@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
@pytest.mark.parametrize("word", ["rooms", "export", "import", "check"])
def test_each_has_help(word: str, flag: str) -> None:
    done = chatserver(word, flag)
    assert (done.code, done.err) == (0, "")
    usage = {"rooms": "FILE", "check": "FILE"}.get(word, "[-machat] FILE ROOM [PATH]")
    assert done.out.startswith(f"usage: chatserver {word} [-h] {usage}\n")
    assert f"\n  chatserver {word} chat.db" in done.out or f"| chatserver {word} chat.db" in done.out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["rooms"], "the following arguments are required: FILE"),
        (["export"], "the following arguments are required: FILE, ROOM"),
        (["export", "chat.db"], "the following arguments are required: ROOM"),
        (["import", "chat.db"], "the following arguments are required: ROOM"),
        (["check", "chat.db", "dev"], "unrecognized arguments: dev"),
        (["export", "chat.db", "dev", "a", "b"], "unrecognized arguments: b"),
        (["rooms", "-store", "chat.db"], "there is no flag -store"),
        (["export", "chat.db", "a room"], "the room has white space"),
        (["export", "chat.db", ""], "the room is empty"),
        (["import", "chat.db", "a:b"], "the room has a ':'"),
        (["import", "chat.db", "x" * 65], "the room has 65 characters; at most 64 are allowed"),
        (["export", "chat.db", "\udcff"], "the room has half a surrogate pair"),
    ],
)
def test_a_wrong_call_is_one_line(arguments: list[str], why: str, here: Callable[..., Done]) -> None:
    error = refused(arguments[0], *arguments[1:], call=here)
    assert error.startswith(why), error


def test_a_server_s_variables_do_not_matter(chat: Path) -> None:
    done = chatserver("check", chat, MACHAT_STORE="/nowhere", MACHAT_RATE="many", MACHAT_LOG_LEVEL="loud")
    assert done == (0, "ok: 1 room, 9 messages\n", "")


def test_names_of_files_are_taken_as_they_are(tmp_path: Path) -> None:
    odd = tmp_path / "50% of?mode=memory#1 é\n.db"
    make(odd)
    assert chatserver("check", odd).out == "ok: 1 room, 9 messages\n"
    assert chatserver("check", odd.name, cwd=tmp_path).out == "ok: 1 room, 9 messages\n"
    assert sorted(content(tmp_path)) == sorted([odd.name, f"{odd.name}-lock"])
