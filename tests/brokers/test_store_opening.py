"""The file of a server: files that it cannot use, files that others use, and files that go away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from executables import SERVER, run
from store_files import chatserver
from store_talk import Talk, check_file, filled, kill, refusal, serving

from chatapi.brokers.sqlite.store import Store


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal(tmp_path).startswith(f"{str(tmp_path)!r}")
    assert list(tmp_path.iterdir()) == []
    assert not tmp_path.with_name(f"{tmp_path.name}-lock").exists()


def test_a_server_that_cannot_use_its_file_says_why_in_one_line(tmp_path: Path) -> None:
    code, out, err = run(sys.executable, SERVER, "-a", "127.0.0.1:0", "-store", tmp_path)
    assert (code, out) == (2, "")
    assert err == f"chatserver: -store {refusal(tmp_path)}\n"


def test_a_damaged_header(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.write(b"SQLite formal 3")
    assert refusal(path) == f"{str(path)!r}: this is not a SQLite database"


def test_a_damaged_first_page(path: Path) -> None:
    filled(path)
    with path.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 400)
    assert refusal(path) == f"{str(path)!r}: it is damaged; `chatserver check` lists the faults"


@contextmanager
def unwritable(path: Path, tmp_path: Path, how: str) -> Iterator[None]:
    """Make a file read-only even for root; skip the test if this system cannot."""
    if how == "immutable":
        on, off = ["chattr", "+i", path], ["chattr", "-i", path]
    else:
        on, off = ["mount", "--bind", "-o", "ro", tmp_path, tmp_path], ["umount", "-l", tmp_path]
    if shutil.which(str(on[0])) is None or subprocess.run(on, capture_output=True).returncode:
        pytest.skip(f"{on[0]} does not work here")
    try:
        if os.access(path, os.W_OK):
            pytest.skip(f"{on[0]} does not keep this user from writing")
        yield
    finally:
        subprocess.run(off, check=True)


@pytest.mark.parametrize("how", ["immutable", "a read-only file system"])
def test_a_file_that_cannot_be_written_to(path: Path, tmp_path: Path, how: str) -> None:
    taken = filled(path)
    path.with_name("chat.db-lock").unlink()
    with unwritable(path, tmp_path, how):
        said = refusal(path)
        assert said.startswith(f"{str(path)!r}: ")
        assert any(word in said for word in ("written to", "read-only", "cannot be opened")), said
    check_file(path, taken)


@pytest.mark.slow
def test_two_servers_on_one_file(path: Path) -> None:
    with serving(path) as first:
        talk = Talk(first)
        assert talk.both()
        assert refusal(path) == f"{str(path)!r} is in use by another server"
        assert talk.both()
        beside = path.parent / "sub" / ".." / path.name  # the same file in other words
        beside.parent.parent.mkdir()
        assert refusal(beside) == f"{str(beside)!r} is in use by another server"
        assert talk.both()
    check_file(path, talk.taken)
    with closing(Store(path)) as store:
        store.open()  # an ended server leaves no lock behind


@pytest.mark.slow
def test_the_same_file_under_another_name_is_in_use_too(path: Path) -> None:
    with serving(path) as first:
        talk = Talk(first)
        link = path.with_name("link.db")
        link.symlink_to(path)
        assert refusal(link) == f"{str(link)!r} is in use by another server"
        assert talk.both()


@pytest.mark.slow
def test_a_file_left_by_a_killed_server_opens_at_once(path: Path) -> None:
    with serving(path) as server:
        talk = Talk(server)
        assert all(talk.both() for _ in range(20))
        kill(server)
    assert path.with_name("chat.db-wal").stat().st_size > 0
    with serving(path) as server:
        assert Talk(server).welcome["seq"] == 40
    check_file(path, talk.taken)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["deleted", "moved away", "replaced"])
def test_a_file_that_is_gone_while_the_server_runs(path: Path, how: str) -> None:
    with serving(path) as server:
        talk = Talk(server)
        assert talk.both()
        if how == "deleted":
            path.unlink()
        else:
            path.rename(path.with_name("elsewhere.db"))
        if how == "replaced":
            filled(path.with_name("other.db"))
            path.with_name("other.db").rename(path)
        why = "was replaced by another file" if how == "replaced" else "was moved or deleted"
        talk.tess.until(b"frame 2\n")
        talk.tess.send("too late\n")
        said = f"* unavailable: your line was not kept: the server's file {why} while it was open"
        assert talk.tess.line() == said
        assert not talk.frame()
        talk.tess.send("/list\n")
        assert talk.tess.line() == "* in dev (3): Jo, Lea, Tess"
        if how == "moved away":
            path.with_name("elsewhere.db").rename(path)
            assert talk.both()
    if how == "moved away":
        check_file(path, talk.taken)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-store", ""], "-store '': it needs the name of a file"),
        (["-store", "x.db", "-store-sync", "nonsense"], "-store-sync 'nonsense': it must be full or normal"),
        (["-keep-days", "3"], "-keep-days needs -store"),
        (["-keep-messages", "3"], "-keep-messages needs -store"),
        (["-keep-bytes", "3"], "-keep-bytes needs -store"),
        (["-store-sync", "full"], "-store-sync needs -store"),
        (["-store", "x.db", "-keep-days", "-1"], "-keep-days '-1': input should be greater than or equal to 0"),
    ],
)
def test_flags_that_make_no_sense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], said: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert chatserver(*flags) == (2, "", f"chatserver: {said}\n")
    assert list(tmp_path.iterdir()) == []
