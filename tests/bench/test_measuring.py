"""`python -m bench`: short runs of the real thing. The tests assert what it reports, never how fast anything is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from executables import Program, environment, eventually

from bench import servers, subjects, tables
from bench.load import Figures, Load
from bench.measure import Options, measure
from bench.subjects import SUBJECTS, Subject
from bench.workloads import GROUPS, WORKLOADS

pytestmark = [
    pytest.mark.bench,
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs Linux's epoll"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler"),
]

SMALL = ("-n", "1", "-seconds", "0.1", "-scale", "0.02")


def bench(*arguments: str, env: dict[str, str] | None = None) -> Program:
    return Program(sys.executable, "-m", "bench", *arguments, env=env)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The table under a heading: the cells of each row, by the first one."""
    section = page.partition(f"## {heading}")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip("| ") for cell in cells[1:]] for cells in lines}


def cell(page: str, heading: str, row: str, column: str) -> str:
    """One cell of a table whose first column has no title."""
    table = rows(page, heading)
    titles = next(iter(table.items()))
    return table[row][[titles[0], *titles[1]].index(column)]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """A run of all workloads on the server: what it printed, its results and its folder."""
    folder = tmp_path_factory.mktemp("bench")
    with bench(*SMALL, "-w", "all", "-only", "machat", "-o", str(folder)) as run:
        assert run.process.wait(300) == 0, run.err
        return run.out.decode(), json.loads((folder / "results.json").read_text()), folder


def test_the_page_names_the_machine_the_versions_and_the_commands(
    everything: tuple[str, dict[str, Any], Path],
) -> None:
    page, results, _ = everything
    for name in ("processor", "system", "python", "pinning", "date", "commit", "command"):
        assert f"- {name}: {results['machine'][name]}" in page
    assert "-only machat" in results["machine"]["command"]
    for name in ("floor", "machat"):
        about = results["subjects"][name]
        assert about["version"]
        assert f"| {name} | {about['what']} | {about['version']} | `{about['command']}` |" in page


@pytest.mark.parametrize("workload", GROUPS["all"])
def test_each_workload_is_measured_and_nothing_is_lost(
    everything: tuple[str, dict[str, Any], Path], workload: str
) -> None:
    page, results, _ = everything
    axis, size = WORKLOADS[workload].axis, WORKLOADS[workload].size
    assert rows(page, axis)[f"{size:,}"] if axis else {"floor", "machat"} <= rows(page, workload).keys()
    runs = [run for run in results["runs"] if run["workload"] == workload]
    assert sorted(run["subject"] for run in runs) == ["floor", "machat"]
    for run in runs:
        assert run["ready"] == run["connections"] > 0
        assert run["lost"] == run["disordered"] == run["disconnects"] == run["refused"] == 0
        assert run["deliveries"] == run["expected"]
        assert (run["deliveries"] > 0) == (workload != "W6")


def test_latency_is_measured_if_members_send_at_a_rate_and_only_then(
    everything: tuple[str, dict[str, Any], Path],
) -> None:
    _, results, _ = everything
    for run in results["runs"]:
        if run["workload"] in ("W4", "W5"):
            assert 0 < run["latency_p50"] <= run["latency_p99"] <= run["latency_p999"] <= run["latency_max"]
        else:
            assert run["latency_max"] == 0


@pytest.mark.parametrize("name", ["results.png", "results-growth.png"])
def test_the_pictures_are_drawn(everything: tuple[str, dict[str, Any], Path], name: str) -> None:
    pytest.importorskip("matplotlib")
    assert (everything[2] / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "subject", ["machat-json", "machat-asyncio", "machat-trio", "machat-store-full", "machat-redis"]
)
def test_every_variant_of_this_server_delivers_each_line_once(subject: str) -> None:
    if missing := SUBJECTS[subject].missing():
        pytest.skip(missing)
    figures = servers.measure(SUBJECTS[subject], Load(rooms=2, members=4, window=8, seconds=0.2))
    assert isinstance(figures, Figures), figures
    assert figures.deliveries == figures.expected > 0
    assert figures.lost == figures.disordered == figures.disconnects == 0


def test_without_matplotlib_everything_but_the_picture_is_made(tmp_path: Path) -> None:
    hidden = (
        "import sys; sys.modules['matplotlib'] = None; from bench.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    flags = (*SMALL, "-w", "W1", "-only", "machat-json", "-o", str(tmp_path))
    with Program(sys.executable, "-c", hidden, *flags) as run:
        assert run.wait() == 0, run.err
        assert "machat[bench]" in run.err
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert [(run["subject"], run["lost"]) for run in runs] == [("floor", 0), ("machat-json", 0)]
    assert not (tmp_path / "results.png").exists()


def test_without_a_compiler_one_line_says_so(tmp_path: Path) -> None:
    with bench(*SMALL, "-o", str(tmp_path), env=environment(PATH=str(tmp_path))) as run:
        assert run.process.wait(30) == 1
        assert len(run.err.splitlines()) == 1
        assert "compiler" in run.err


def run_here(folder: Path, *names: str, runs: int = 1) -> tuple[str, list[Mapping[str, Any]]]:
    """W1, small, on some servers, in this process; the page, and the runs in results.json."""
    results = measure(Options(workloads=["W1"], only=names, runs=runs, seconds=0.1, scale=0.05, folder=folder))
    return tables.everything(results), json.loads((folder / "results.json").read_text())["runs"]


def test_what_is_not_installed_is_listed_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = subjects.program("absent", "nothing", subjects.TEXT, ("machat-no-such-server", "{port}"))
    monkeypatch.setitem(SUBJECTS, "absent", absent)
    page, runs = run_here(tmp_path, "absent")
    assert cell(page, "W1", "absent", "deliveries/s") == "machat-no-such-server is not installed"
    assert {run["subject"] for run in runs} == {"floor"}


def python_server(name: str, program: str) -> Subject:
    return dataclasses.replace(SUBJECTS["machat"], name=name, command=("python", "-c", program, "{port}"))


FAILING = {
    "ends-at-once": ("import sys; sys.exit('no such luck')", "no such luck"),
    "crashes": (
        "import os, signal, socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "s.accept(); s.accept(); os.kill(os.getpid(), signal.SIGSEGV)",
        "SIGSEGV",
    ),
    "turns-all-away": (
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "while True: s.accept()[0].close()",
        "0 of 5 members",
    ),
}


def test_servers_that_fail_are_reported_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (program, _) in FAILING.items():
        monkeypatch.setitem(SUBJECTS, name, python_server(name, program))
    page, runs = run_here(tmp_path, *FAILING, "machat", runs=2)
    assert [run["turn"] for run in runs if run["subject"] == "machat"] == [1, 2]
    assert cell(page, "W1", "machat", "lost") == "0"
    for name, (_, reason) in FAILING.items():
        assert reason in cell(page, "W1", name, "deliveries/s")
        (failed,) = [run for run in runs if run["subject"] == name]  # it is not tried again
        assert reason in failed["failed"]


def test_a_server_that_loses_doubles_or_disconnects_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swallow = "import sys; sys.argv[0] = 'streams'; exec(open('bench/peers/streams_server.py').read().replace({}, {}))"
    line = "while line := await reader.readline():"
    loses = (
        f"n = 0\n        {line}\n            n += 1\n            if n == 20: break\n            if n == 10: continue"
    )
    twice = f"{line}\n          for _ in range(2):"
    for name, instead in (("loses", loses), ("doubles", twice)):
        subject = dataclasses.replace(SUBJECTS["streams"], name=name)
        command = ("python", "-c", swallow.format(repr(line), repr(instead)), "{port}")
        monkeypatch.setitem(SUBJECTS, name, dataclasses.replace(subject, command=command))
    page, _ = run_here(tmp_path, "loses", "doubles")
    assert cell(page, "W1", "loses", "lost") != "0"
    assert cell(page, "W1", "loses", "doubled or late") == "0"
    assert cell(page, "W1", "loses", "disconnects") == "1"
    assert cell(page, "W1", "doubles", "doubled or late") != "0"
    assert cell(page, "W1", "doubles", "disconnects") == "0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_reports_what_there_is_and_leaves_no_process_behind(tmp_path: Path, number: signal.Signals) -> None:
    mark = uuid.uuid4().hex  # in the environment of all that is started

    def alive() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().decode(errors="replace"):
                    found.append((process / "cmdline").read_text())
            except OSError:
                pass  # it has ended, or is not ours
        return found

    flags = ("-w", "W1", "-only", "machat", "-n", "1000", "-seconds", "0.1", "-scale", "0.05", "-o", str(tmp_path))
    with bench(*flags, env=environment(BENCH_MARK=mark)) as run:
        run.says("4 of 2000: W1 on machat")
        eventually(lambda: any("cmd/chatserver" in command for command in alive()), "no server was started")
        assert sum("cmd/chatserver" in command for command in alive()) <= 1, "an earlier one is still running"
        run.signal(number)
        assert run.wait() == 130
        assert alive() == []
        page = run.out.decode()
    assert "Interrupted" in page
    assert cell(page, "W1", "machat", "lost") == "0"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["interrupted"]
    assert [run["subject"] for run in results["runs"]] == ["floor", "machat", "floor"]
