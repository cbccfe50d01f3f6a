"""`chatserver export`, `import` and `rooms`: a room comes out of a file, and into another, unchanged."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
from store_files import BEGINNING, chatserver, content, make, refused

from chatapi.brokers.sqlite.store import Store
from chatapi.brokers.sqlite.view import View


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
def test_a_room_that_is_exported_and_imported_is_the_same(trimmed: int, tmp_path: Path) -> None:
    old, new = make(tmp_path / "old.db", trimmed=trimmed), tmp_path / "new.db"
    before, after = tmp_path / "before.ndjson", tmp_path / "after.ndjson"
    assert chatserver("export", old, "Dev", before).code == 0
    assert json.loads(before.read_text().partition("\n")[0])["first"] == trimmed + 1
    assert chatserver("import", new, "Dev", before).code == 0
    assert chatserver("export", new, "Dev", after).code == 0
    assert after.read_bytes() == before.read_bytes()
    assert chatserver("rooms", new).out == chatserver("rooms", old).out
    assert chatserver("check", new) == chatserver("check", old)
    assert chatserver("check", new).code == 0


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
    assert error == f"{str(chat)!r} already has a room 'DEV'; an import never overwrites a room"
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


# The rooms of a file


def test_rooms_lists_all_rooms_with_their_figures(tmp_path: Path) -> None:
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
