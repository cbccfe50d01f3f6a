"""What the sub-commands quote of a damaged file reaches the terminal as text alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from chatapi.brokers.sqlite.store import Store
from chatapi.cli.store import main

EVIL = "a\x1b[2Jb\u202ec\nd"


@pytest.mark.parametrize("word", ["check", "rooms", "export", "import"])
def test_the_name_of_a_table_that_nobody_can_read(word: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, messages = tmp_path / "c.db", tmp_path / "messages"
    store = Store(path)
    store.open()
    store.close()
    damaged = sqlite3.connect(path)
    damaged.execute("PRAGMA writable_schema = ON")
    damaged.execute("INSERT INTO sqlite_schema VALUES ('table', ?, 'x', 0, 'nonsense')", (EVIL,))
    damaged.commit()
    damaged.close()
    messages.write_text('{"name": "Mina", "text": "x"}\n')
    arguments = {"export": ["dev"], "import": ["dev", str(messages)]}.get(word, [])
    try:
        code: object = main([word, str(path), *arguments])
    except SystemExit as ended:
        code = ended.code
    assert code == (1 if word == "check" else 2)
    shown = "".join(capfd.readouterr())
    assert "a[2Jb\u202ec d" in shown
    assert shown.count("\n") == 1
    assert "\x1b" not in shown
    assert shown.count("\u202e") == shown.count("\u202c")
