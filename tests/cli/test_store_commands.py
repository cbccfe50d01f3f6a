"""`chatserver rooms`, `export`, `import` and `check` as programs: arguments, streams and signals."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from executables import DEADLINE, ROOT, SERVER, Program, Server, environment
from store_files import BEGINNING, FOUND, Done, chatserver, content, make, messages, refused, tamper


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A file with the room `Dev`."""
    return make(tmp_path / "chat.db")


# As programs


def in_a_process(*arguments: str | Path, lines: str = "") -> Done:
    """Run `chatserver` in a process of its own."""
    done = subprocess.run(
        (sys.executable, ROOT / SERVER, *arguments),
        env=environment(),
        input=lines.encode(),
        capture_output=True,
        timeout=DEADLINE,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_each_is_a_program_that_reads_and_writes_its_standard_streams(chat: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.db"
    exported = in_a_process("export", chat, "dev")
    assert exported == chatserver("export", chat, "dev")
    assert in_a_process("import", new, "Dev", lines=exported.out) == (0, "imported 'Dev', seq 1 to 11\n", "")
    assert in_a_process("rooms", new) == chatserver("rooms", chat)
    tamper(new, "UPDATE rooms SET epoch = ''")
    assert in_a_process("check", new) == chatserver("check", new)


# A server beside them


@pytest.mark.slow
def test_all_but_import_work_while_a_server_runs(chat: Path) -> None:
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


@pytest.mark.slow
def test_clients_resume_in_a_room_that_was_imported(chat: Path, tmp_path: Path) -> None:
    """Its epoch, numbers and times are the old ones, so no client notices that the file is another one."""
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


@pytest.mark.slow
def test_check_reads_the_last_messages_of_a_killed_server_and_changes_nothing(chat: Path, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to(chat: Path, tmp_path: Path) -> None:
    mount = f'mount --bind "{tmp_path}" "{tmp_path}" && mount -o remount,ro,bind "{tmp_path}"'
    unshared = "unshare", "-rm", "sh", "-c"
    if not shutil.which("unshare") or subprocess.run((*unshared, mount), capture_output=True).returncode:
        pytest.skip("no folder can be made read-only for a process here")

    def tchatserver(*arguments: str | Path, lines: str = "") -> Done:
        words = " ".join(f"'{argument}'" for argument in (sys.executable, ROOT / SERVER, *arguments))
        done = subprocess.run(
            (*unshared, f"{mount} && exec {words}"),
            env=environment(),
            input=lines.encode(),
            capture_output=True,
            timeout=DEADLINE,
        )
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    assert tchatserver("check", chat) == (0, "ok: 1 room, 9 messages\n", "")
    assert tchatserver("export", chat, "dev").out == chatserver("export", chat, "dev").out
    assert tchatserver("rooms", chat).out == chatserver("rooms", chat).out
    done = tchatserver("export", chat, "dev", tmp_path / "dev.ndjson")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"chatserver export: cannot write to {str(tmp_path / 'dev.ndjson')!r}: Read-only file system\n"
    done = tchatserver("import", chat, "ops", lines=FOUND)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1), done


# Outputs that take nothing more, inputs that give nothing, and Ctrl-C


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_an_output_that_is_closed_from_the_beginning(chat: Path) -> None:
    with Program(sys.executable, SERVER, "export", chat, "dev", before=lambda: os.close(1)) as program:
        assert program.wait() == 1
        assert program.err == "chatserver export: the standard output is closed\n"


@pytest.mark.slow
def test_a_pipe_by_its_name(chat: Path, tmp_path: Path) -> None:
    pipe, new = tmp_path / "pipe", tmp_path / "new.db"
    os.mkfifo(pipe)
    with Program(sys.executable, SERVER, "export", chat, "dev", pipe) as program:
        assert chatserver("import", new, "Dev", pipe).code == 0
        assert program.wait() == 0
    assert chatserver("export", new, "dev").out == chatserver("export", chat, "dev").out


@pytest.mark.slow
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


@pytest.mark.slow
def test_ctrl_c_during_an_export_without_a_reader(tmp_path: Path) -> None:
    chat = messages(tmp_path / "chat.db", "dev", 20_000)
    to = tmp_path / "pipe"
    os.mkfifo(to)
    with Program(sys.executable, SERVER, "export", chat, "dev", to) as program:
        with to.open("rb", buffering=0) as pipe:
            assert pipe.read(10) == b'{"type":"r'
            program.signal(signal.SIGINT)
            assert program.wait() == 130
        assert program.err == ""


def test_an_input_that_cannot_be_read(chat: Path, tmp_path: Path) -> None:
    error = refused("import", chat, "ops", tmp_path / "nothing")
    assert error == f"cannot read {str(tmp_path / 'nothing')!r}: No such file or directory"
    assert refused("import", chat, "ops", tmp_path) == f"cannot read {str(tmp_path)!r}: Is a directory"


@pytest.mark.slow
def test_an_input_that_is_closed_from_the_beginning(chat: Path) -> None:
    with Program(sys.executable, SERVER, "import", chat, "ops", before=lambda: os.close(0)) as program:
        assert program.wait() == 2
        assert program.err == "chatserver import: the standard input is closed\n"


# The progress bar


def on_a_terminal(*arguments: str | Path) -> tuple[int, str, bytes]:
    """Run a sub-command whose standard error is a terminal: its code, the text on the terminal, its output."""
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


@pytest.mark.slow
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
def test_a_wrong_call_is_one_line(arguments: list[str], why: str) -> None:
    error = refused(arguments[0], *arguments[1:])
    assert error.startswith(why), error


def test_a_server_s_variables_do_not_matter(chat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("STORE", "/nowhere"), ("RATE", "many"), ("LOG_LEVEL", "loud")):
        monkeypatch.setenv(f"MACHAT_{name}", value)
    assert chatserver("check", chat) == (0, "ok: 1 room, 9 messages\n", "")


def test_names_of_files_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "50% of?mode=memory#1 é\n.db"
    make(odd)
    assert chatserver("check", odd).out == "ok: 1 room, 9 messages\n"
    assert chatserver("check", odd.name).out == "ok: 1 room, 9 messages\n"
    assert sorted(content(tmp_path)) == sorted([odd.name, f"{odd.name}-lock"])
