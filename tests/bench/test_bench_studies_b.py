"""The studies `lag`, `storm` and `memory`, small and short: what they saw, never how fast it was."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import lag, memory, storm
from bench.__main__ import main
from bench.members import Crowd, Member
from bench.subjects import SUBJECTS, executable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs Linux's epoll"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler"),
]

GRACE = 2.0
"""Seconds: on a slow machine the load, too, may lag for a while."""


def study(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *flags: str
) -> tuple[str, dict[str, Any]]:
    """Run a study on a server with small limits: what it printed, and what it wrote."""
    small = executable("-grace", str(GRACE), "-log-bytes", "65536", "-linger", "0.2", "-reserve", "600")
    monkeypatch.setitem(SUBJECTS, "machat", replace(SUBJECTS["machat"], command=small))
    assert main([name, "-n", "1", *flags, "-o", str(folder)]) == 0
    page, results = capsys.readouterr().out, json.loads((folder / f"{name}.json").read_text())
    assert page.startswith(f"# Benchmark: {name}\n")
    assert {"machine", "subjects", "runs"} <= results.keys()
    assert results["interrupted"] is False
    return page, results


def row(page: str, column: str, *cells: str) -> list[str]:
    """The figures in the row that begins with these words, of the table that has such a column."""
    table = page.partition(f"| {column} |")[2].partition("\n\n")[0]
    (found,) = (line for line in table.splitlines() if line.startswith(f"| {' | '.join(cells)} | "))
    return [cell.strip() for cell in found.split("|")[1 + len(cells) : -1]]


def is_picture(path: Path) -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return not path.exists()
    return path.read_bytes().startswith(b"\x89PNG")


def test_lag_shows_who_was_disconnected_and_that_the_others_lost_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, results = study("lag", tmp_path, capsys, monkeypatch, "-scale", "0.04", "-seconds", "1")
    runs = {run["what"]: run for run in results["runs"]}
    assert list(runs) == [lag.NOBODY, lag.HALF, lag.ONE, lag.ALL]
    for what in (lag.NOBODY, lag.HALF, lag.ONE):
        figures = runs[what]["figures"]
        assert figures["lost"] == figures["disordered"] == figures["disconnects"] == 0
        assert figures["deliveries"] == figures["expected"] > 0
    assert runs[lag.NOBODY]["evicted"] == []
    gone = len(runs[lag.HALF]["evicted"])
    assert gone <= runs[lag.HALF]["figures"]["stalled"] == 20
    for look in runs[lag.HALF]["looks"]:
        assert look.keys() == {"at", "cpu", "resident", "tcp", "members"}
        assert 20 <= look["members"] <= 40
    assert runs[lag.ALL]["members"] == 20
    assert {"waited", "waiting_share", "evicting"} <= runs[lag.ALL].keys()
    _, _, _, _, times, evicted, lost, _ = row(page, "before", "machat", lag.HALF)
    assert (evicted, lost) == (str(gone), "0")
    assert int(times) == len(runs[lag.HALF]["pauses"])
    assert is_picture(tmp_path / "lag.png")


def test_storm_brings_everybody_back_with_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storm, "CALM", 0.5)
    page, results = study("storm", tmp_path, capsys, monkeypatch, "-scale", "0.04", "-n", "2")
    assert [run["turn"] for run in results["runs"]] == [1, 2]
    for run in results["runs"]:
        assert run["recovered"] == run["members"] == len(run["returned"]) == 200
        assert run["lost"] == run["doubled"] == run["given_up"] == 0
        assert run["missed"] >= 200  # a line in each room while nobody was there, at least
        assert 0 < run["dropped"] < run["returned"][0] <= run["returned"][-1]
        assert {"delays", "delays_before", "server_cpu", "client_cpu"} <= run.keys()
    assert row(page, "recovered", "machat")[0] == "200 of 200"
    assert is_picture(tmp_path / "storm.png")


def cycle(resident: int) -> memory.Cycle:
    return memory.Cycle(joins=500, deliveries=1, lost=0, doubled=0, seconds=1, resident=resident)


def test_a_leak_is_the_slope_behind_the_first_cycles() -> None:
    def slope(sizes: Sequence[int]) -> float:
        return memory.Memory(at_start=0, cycles=[cycle(size) for size in sizes]).slope_per_thousand_joins

    settling = range(0, 10_000_000, 1_000_000)
    assert slope([*settling, *[10_000_000] * 10]) == 0
    assert slope([*settling, *range(10_000_000, 11_000_000, 100_000)]) == pytest.approx(200_000)


def test_memory_goes_through_all_cycles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("CYCLES", 4), ("WARM", 1), ("ROOMS", 2), ("KEPT", 0.1)):
        monkeypatch.setattr(memory, name, value)
    page, results = study("memory", tmp_path, capsys, monkeypatch, "-only", "machat")
    (run,) = results["runs"]
    assert "-keep=0.1 -reserve=0.1 -remember=0.1" in results["subjects"]["machat"]["command"]
    assert len(run["cycles"]) == 4
    for one in run["cycles"]:
        assert one["joins"] == 2 * 14
        assert one["lost"] == one["doubled"] == 0
        assert one["deliveries"] > 0
    slope = row(page, "at start", "machat")[5]
    assert slope == f"{run['slope_per_thousand_joins'] / 1024:+.2f}"
    assert row(page, "at start", "machat")[6:] == ["112", f"{deliveries(run):,}", "0", "0"]
    assert is_picture(tmp_path / "memory.png")


def deliveries(run: dict[str, Any]) -> int:
    return sum(cycle["deliveries"] for cycle in run["cycles"])


@pytest.mark.parametrize("name", ["lag", "storm", "memory"])
def test_a_server_that_fails_is_told_of(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fragile = replace(
        SUBJECTS["machat"], name="machat-trio", command=("python", "-c", "import sys; sys.exit('no such luck')")
    )
    monkeypatch.setitem(SUBJECTS, "machat-trio", fragile)
    page, results = study(name, tmp_path, capsys, monkeypatch, "-only", "machat-trio")
    assert "no such luck" in page
    assert "no such luck" in json.dumps(results)


WELCOME = b'{"type":"welcome","session":"k","epoch":"e","seq":%d,"ts":%d,"recovered":%s}\n'
MESSAGE = b'{"type":"message","seq":%d,"ts":%d,"name":"zoe","text":"x"}\n'


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [((1, 2, 3), (4, 5, 6), (6, 0, 0)), ((1, 3), (4, 6), (6, 2, 0)), ((1, 2, 2), (2, 3), (3, 0, 2))],
    ids=["all", "some are left out", "some come twice"],
)
def test_a_server_that_loses_or_doubles_lines_is_found_out(
    before: tuple[int, ...], after: tuple[int, ...], found: tuple[int, int, int]
) -> None:
    asked = []

    def serve(server: socket.socket) -> None:
        for recovered, seqs in ((b"null", before), (b"true", after)):
            with server.accept()[0] as connection:
                asked.append(json.loads(connection.makefile("rb").readline()))
                newest = max(seqs) if recovered == b"true" else 0
                lines = b"".join(MESSAGE % (seq, 10 * seq) for seq in seqs)
                connection.sendall(WELCOME % (newest, newest, recovered) + lines)

    with socket.create_server(("127.0.0.1", 0)) as server, Crowd(server.getsockname()[1]) as crowd:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        member = Member("mina", "room")
        crowd.connect(member)
        crowd.until(lambda: member.lines == len(before) and member.connection is None, "the first part")
        crowd.come_back(member)
        crowd.until(lambda: member.lines == len(before) + len(after), "the second part")
        thread.join()
    assert asked[1]["resume"] == {"epoch": "e", "seq": max(before), "ts": 10 * max(before), "session": "k"}
    assert (member.seq, member.lost, member.doubled) == found
    assert member.recovered is True
