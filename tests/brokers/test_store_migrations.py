"""A file of an older version: it is migrated once, and its copy is the way back."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from executables import ROOT
from faults import Action, FaultyDisk
from store_talk import ROOM, check_file, filled, refusal

from chatapi import Message, StoreError
from chatapi.brokers.sqlite.database import MIGRATIONS
from chatapi.brokers.sqlite.store import Store


def test_a_file_of_the_first_version_goes_on_in_the_next_one(path: Path) -> None:
    taken = filled(path)
    migrations = [*MIGRATIONS, "ALTER TABLE rooms ADD COLUMN topic TEXT;\nCREATE TABLE pins (seq INTEGER)"]
    new = Store(path, migrations=migrations)
    new.open()
    try:
        assert new.reader.execute("PRAGMA user_version").fetchone() == (len(migrations),)
        assert new.reader.execute("SELECT topic FROM rooms").fetchall() == [(None,)]
        assert new.reader.execute("SELECT count(*) FROM pins").fetchone() == (0,)
        past = new.past(ROOM, 10, 100_000)
        assert past is not None
        assert [event.text for entry in past.tail for event in entry.events() if isinstance(event, Message)] == [
            text for _, text in taken
        ]
        assert past.seq == len(taken)
        assert list(new.faults()) == []
    finally:
        new.close()
    said = "was written by a newer version of this program (its schema is 3; this version reads schemas up to 2"
    assert refusal(path).startswith(f"{str(path)!r} {said}")
    check_file(path.with_name("chat.db-v2"), taken)


def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    taken = filled(path)
    with pytest.raises(StoreError):
        Store(path, migrations=[*MIGRATIONS, "CREATE TABLE pins (seq INTEGER);\nALTER TABLE nothing ADD x"]).open()
    check_file(path, taken)
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (2,)
        assert file.execute("SELECT name FROM sqlite_master WHERE name = 'pins'").fetchone() is None
    assert filled(path.with_name("fresh.db")) == taken  # and a new file is none the worse for it
    with closing(Store(path)) as store:
        store.open()


MIGRATE = """
import sys
from contextlib import closing
from chatapi.brokers.sqlite.database import MIGRATIONS
from chatapi.brokers.sqlite.store import Store
store = Store(sys.argv[1], migrations=[*MIGRATIONS, "ALTER TABLE rooms ADD COLUMN topic TEXT"])
store.open()
store.close()
"""


def migrate(path: Path, disk: FaultyDisk) -> int:
    """Open a file with a store that knows one version more; returns the exit code."""
    return subprocess.run(
        [sys.executable, "-c", MIGRATE, path], cwd=ROOT, env=disk.environment, stderr=subprocess.DEVNULL
    ).returncode


@pytest.mark.slow
def test_a_migration_killed_in_the_middle_is_done_the_next_time(path: Path, disk: FaultyDisk) -> None:
    taken = filled(path)
    disk.count()
    assert migrate(path, disk) == 0
    calls = disk.calls
    assert calls > 4
    for after in range(0, calls, 7):
        restore_first_version(path)
        disk.fail(Action.DIE_BEFORE, after=after, times=1)
        assert migrate(path, disk) == -signal.SIGKILL
        disk.heal()
        assert migrate(path, disk) == 0
        check_file(path.with_name("chat.db-v2"), taken)
        with closing(sqlite3.connect(path)) as file:
            assert file.execute("PRAGMA user_version").fetchone() == (3,)
            assert file.execute("SELECT count(topic), count(*) FROM rooms").fetchone() == (0, 1)
            assert file.execute("SELECT sum(count) FROM log").fetchone() == (len(taken),)


def restore_first_version(path: Path) -> None:
    """Put the copy that the migration has kept back into its place."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.with_name(path.name + "-v2").replace(path)


@pytest.mark.slow
@pytest.mark.parametrize("action", [Action.FAIL, Action.DIE_AFTER])
def test_a_copy_that_could_not_be_finished_is_made_again(path: Path, shim: Path, action: Action) -> None:
    """Otherwise the copy for a downgrade would be half a file."""
    taken = filled(path)
    copy = path.with_name("chat.db-v2")
    for after in (0, 3):
        for name in ("chat.db-v2", "chat.db-v2-part"):  # whatever it is called until it is whole
            disk = FaultyDisk(path.with_name(name), shim)
            disk.fail(action, after=after, times=1)
            migrate(path, disk)
            disk.heal()
            if disk.hits:
                break
            restore_first_version(path)
        else:
            raise AssertionError("no copy was made")
        assert migrate(path, disk) == 0
        check_file(copy, taken)
        restore_first_version(path)
