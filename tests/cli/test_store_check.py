"""`chatserver check` finds the damage in a file; the sub-commands refuse files of another kind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from store_files import BEGINNING, FOUND, chatserver, content, make, messages, refused, tamper


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A file with the room `Dev`."""
    return make(tmp_path / "chat.db")


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
        (f"UPDATE log SET count = 2 WHERE {row(4)}", "room 'Dev', seq 4: its count is 2, but its text has 3 lines"),
        (
            f"UPDATE log SET count = 0 WHERE {row(11)}",
            "room 'Dev', seq 11: its ts must be a number and its count at least 1",
        ),
        (
            f"UPDATE log SET ts = 'noon' WHERE {row(11)}",
            "room 'Dev', seq 11: its ts must be a number and its count at least 1, but they are 'noon' and",
        ),
        (f"UPDATE log SET block = x'6162' WHERE {row(11)}", "room 'Dev', seq 11: its text does not end with a line"),
        (f"UPDATE log SET block = x'' WHERE {row(11)}", "room 'Dev', seq 11: its text does not end with a line feed"),
        (f"UPDATE log SET block = x'ff0a' WHERE {row(11)}", "room 'Dev', seq 11: its text is not UTF-8"),
        (f"UPDATE log SET block = 'bye' WHERE {row(11)}", "room 'Dev', seq 11: it is neither messages nor a deletion"),
        (f"UPDATE log SET target = 3 WHERE {row(11)}", "room 'Dev', seq 11: it is neither messages nor a deletion"),
        (
            f"UPDATE log SET name = '' WHERE {row(11)}",
            "room 'Dev', seq 11: its author's name must be a text that is not empty, but is ''",
        ),
        (
            f"UPDATE log SET name = CAST(x'ff' AS TEXT) WHERE {row(11)}",
            "room 'Dev', seq 11: its author's name must be a text that is not empty, but is '",
        ),
        (
            f"UPDATE log SET target = 11 WHERE {row(10)}",
            "room 'Dev', seq 10: it deletes seq 11, which is not before it",
        ),
        (f"UPDATE log SET target = NULL WHERE {row(10)}", "room 'Dev', seq 10: it deletes seq None, which is not"),
        (f"UPDATE log SET count = 2 WHERE {row(10)}", "room 'Dev', seq 10: it is a deletion, but its count is 2"),
        (
            f"UPDATE log SET block = x'6869210a' WHERE {row(9)}",
            "room 'Dev', seq 10: it deletes seq 9, which does not exist or",
        ),
        (
            f"UPDATE log SET block = x'0a' WHERE {row(11)}",
            "room 'Dev', seq 11: it has no text, but no deletion names it",
        ),
        (f"UPDATE log SET block = x'610a0a0a' WHERE {row(4)}", "room 'Dev', seq 6: it has no text, but no deletion"),
        ("INSERT INTO log SELECT place + (1 << 40), ts, count, name, block, target FROM log", "room number 2 does not"),
        ("UPDATE rooms SET key = 'Dev'", "room 'Dev': its key 'Dev' does not match its name, so nobody can join it"),
        ("UPDATE rooms SET epoch = ''", "room 'Dev': its epoch must be a text that is not empty, but is ''"),
        (
            "UPDATE rooms SET trimmed = 'all'",
            "room 'Dev': its trimmed and trimmed_ts must be numbers, but are 'all' and 0",
        ),
    ],
)
def test_an_impossible_room_is_a_fault(statement: str, fault: str, chat: Path) -> None:
    tamper(chat, statement)
    done = chatserver("check", chat)
    assert (done.code, done.err) == (1, "")
    *faults, last = done.out.splitlines()
    assert faults[0].startswith(fault), faults
    assert re.fullmatch(r"\d+ faults?: 1 room, \d+ messages", last), last
    assert int(last.split()[0]) == len(faults)
    for word in ("rooms", "export"):
        done = chatserver(word, chat, *(["dev"] if word == "export" else []))  # it may or may not matter there
        assert (done.code, done.err.count("\n")) in ((0, 0), (2, 1)), done


@pytest.mark.parametrize(
    ("statement", "seq"),
    [
        (f"UPDATE log SET block = x'ff0a' WHERE {row(8)}", 8),
        (f"UPDATE log SET count = 2 WHERE {row(4)}", 4),
        (f"DELETE FROM log WHERE {row(3)}", 3),
    ],
)
def test_an_export_goes_up_to_where_the_damage_is(statement: str, seq: int, chat: Path) -> None:
    whole = chatserver("export", chat, "dev").out.splitlines()
    tamper(chat, statement)
    done = chatserver("export", chat, "dev")
    assert (done.code, done.out.splitlines()) == (2, whole[:seq])
    error = f"{str(chat)!r}: 'Dev' is damaged at seq {seq}; `chatserver check` lists the faults"
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
    assert "damaged; `chatserver check` lists the faults" in done.err
    assert len(done.lines) > 1000
    to = tmp_path / "dev.ndjson"
    to.write_text("the last good backup")
    assert chatserver("export", chat, "dev", to).code == 2
    assert to.read_text() == "the last good backup"
    assert sorted(content(tmp_path)) == ["chat.db", "chat.db-lock", "dev.ndjson"]


def test_damage_that_sqlite_finds_is_a_fault(chat: Path) -> None:
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


def test_nothing_is_left_beside_a_file_that_was_looked_at(chat: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.db-lock").unlink()
    before = content(tmp_path)
    chatserver("check", chat)
    chatserver("rooms", chat)
    chatserver("export", chat, "dev")
    assert content(tmp_path) == before


# Files that are something else


def newer(path: Path) -> None:
    make(path)
    tamper(path, "PRAGMA user_version = 99")


def another_program(path: Path) -> None:
    tamper(path, "CREATE TABLE cars (wheels INTEGER)")


OTHERS = {
    "newer": (newer, "was written by a newer version of this program (its schema is 99; this version reads"),
    "another program's": (another_program, "is not a file of this chat server, but of another program"),
    "junk": (lambda path: path.write_bytes(b"junk" * 5000), "this is not a SQLite database"),
    "zeros": (lambda path: path.write_bytes(bytes(8192)), "this is not a SQLite database"),
    "random": (lambda path: path.write_bytes(os.urandom(20_000)), "this is not a SQLite database"),
    "a folder": (lambda path: path.mkdir(), ""),
    "text": (lambda path: path.write_text("hello"), "this is not a SQLite database"),
}


@pytest.mark.parametrize("word", ["rooms", "export", "check", "import"])
@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_is_something_else(kind: str, word: str, tmp_path: Path) -> None:
    write, why = OTHERS[kind]
    path, lines = tmp_path / "chat.db", tmp_path / "dev.ndjson"
    write(path)
    lines.write_text(FOUND)
    before = path.read_bytes() if path.is_file() else b""
    more: dict[str, list[str | Path]] = {"export": ["dev"], "import": ["dev", lines]}
    error = refused(word, path, *more.get(word, []))
    assert repr(str(path)) in error
    assert why in error
    assert not path.is_file() or path.read_bytes() == before


@pytest.mark.parametrize("word", ["rooms", "export", "check"])
def test_a_file_that_is_not_there_or_empty(word: str, tmp_path: Path) -> None:
    path, room = tmp_path / "chat.db", ["dev"] if word == "export" else []
    assert refused(word, path, *room) == f"{str(path)!r}: there is no such file"
    assert content(tmp_path) == {}
    path.touch()
    assert refused(word, path, *room) == f"{str(path)!r} is empty"
    assert content(tmp_path) == {"chat.db": b""}


def test_import_makes_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for name in ("empty.db", "new.db"):
        assert chatserver("import", tmp_path / name, "dev", lines=FOUND).code == 0
        assert chatserver("check", tmp_path / name).out == "ok: 1 room, 1 message\n"
    error = refused("import", tmp_path / "nowhere" / "new.db", "dev", lines=FOUND)
    assert error == f"{str(tmp_path / 'nowhere' / 'new.db')!r}: there is no folder {str(tmp_path / 'nowhere')!r}"
