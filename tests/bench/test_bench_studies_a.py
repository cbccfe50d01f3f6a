"""`python -m bench growth`, `embedding` and `start`: short runs of the real thing, never how fast anything is."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from bench import embedding, growth, start
from bench.__main__ import main
from bench.beside import Neighbour
from bench.growth import Axis
from bench.load import Load
from bench.options import Options
from bench.report import markdown, spread
from bench.study import in_turns, publish
from bench.subjects import SUBJECTS

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs Linux's epoll"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler"),
]


def tables(page: str) -> dict[str, list[dict[str, str]]]:
    """Every table under a heading of its own: rows, each of them its cells by their titles."""
    found = {}
    for section in page.split("\n## ")[1:]:
        lines = [line[2:-2].split(" | ") for line in section.splitlines() if line.startswith("|")]
        if lines:
            titles, marks, *rows = lines
            assert all(set(mark) <= set("-:") for mark in marks)
            found[section.splitlines()[0]] = [dict(zip(titles, row, strict=True)) for row in rows]
    return found


@pytest.fixture
def options(tmp_path: Path) -> Options:
    return Options(runs=1, seconds=0.2, scale=0.01, folder=tmp_path, command="what was typed")


def results(options: Options, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((options.folder / f"{name}.json").read_text())
    assert found["machine"]["command"] == "what was typed"
    assert found["interrupted"] is False
    return found


# ---- growth ----


def test_along_an_axis_one_thing_grows_and_all_else_stays() -> None:
    axes = {axis.name: axis.loads for axis in growth.axes(Options(seconds=2))}
    assert list(axes["members"]) == [10, 100, 1000, 10_000]
    assert list(axes["rooms"]) == [1, 10, 100, 1000, 5000]
    assert list(axes["bytes"]) == [16, 64, 256, 1024, 4096]
    assert list(axes["senders"]) == [1, 10, 100, 1000]
    grows = {"members": "members", "rooms": "rooms", "bytes": "payload", "senders": "talkers"}
    for name, loads in axes.items():
        for size, load in loads.items():
            assert getattr(load, grows[name]) == size
            assert load.seconds == 2
        fixed = [dataclasses.replace(load, **{grows[name]: 1, "window": 1}) for load in loads.values()]
        assert fixed.count(fixed[0]) == len(fixed)
        assert len({load.talkers * load.window for load in loads.values()}) == 1  # in one room


@pytest.mark.parametrize(("descriptors", "members"), [(20_000, 3), (1_000_000, 10)])
def test_there_are_as_many_rooms_as_connections_allow(
    monkeypatch: pytest.MonkeyPatch, descriptors: int, members: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (descriptors, descriptors))
    rooms = growth.axes(Options())[1].loads
    assert {load.members for load in rooms.values()} == {members}
    assert max(load.connections for load in rooms.values()) <= min(descriptors, 50_000)


def test_growth_is_a_table_for_each_axis_and_a_picture(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    long = SUBJECTS["machat"].protocol.max_payload + 1
    axes = [
        Axis("rooms", "of a kind", {n: Load(rooms=n, members=3, window=8, seconds=0.1) for n in (1, 2)}),
        Axis("bytes", "too", {n: Load(members=3, window=8, payload=n, seconds=0.1) for n in (16, long)}),
    ]
    assert growth.study(options, axes, growth.everybody(options)) == 0
    said = capsys.readouterr()
    found = tables(said.out)
    runs = results(options, "growth")["runs"]
    cpu = {(run["workload"], run["subject"]): run.get("server_cpu_per_million") for run in runs}
    assert "- processor: " in said.out
    for title, sizes in (("rooms: of a kind", ["1", "2"]), ("bytes: too", ["16", f"{long:,}"])):
        name = title.partition(":")[0]
        rows = found[title]
        assert [(row[name], row["server"]) for row in rows] == [(n, s) for n in sizes for s in ("floor", "machat")]
        *measured, last = rows
        assert [row["lost"] for row in measured] == ["0"] * 3
        for row in measured:
            part = f"{name} {row[name].replace(',', '')}"
            ours, floor = cpu[part, row["server"]], cpu[part, "floor"]
            assert row["CPU s per million"] == f"{ours:.3f}"
            assert row["× floor"] == (f"{ours / floor:.2f}" if floor else "")
        assert ("carries at most" in last["deliveries/s"]) == (name == "bytes")  # a failure is a row too
    everybody = found["everybody talks: a room of 10, each of whom says a line a second"]
    assert [row[""] for row in everybody] == ["floor", "machat", "floor-line"]
    assert [row["lost"] for row in everybody] == ["0"] * 3
    assert len(runs) == 11
    assert [run for run in runs if "failed" in run] == [
        {"workload": f"bytes {long}", "subject": "machat", "turn": 1, "failed": last["deliveries/s"]}
    ]
    assert all(run["deliveries"] == run["expected"] > 0 for run in runs if "failed" not in run)
    picture = options.folder / "growth.png"
    if importlib.util.find_spec("matplotlib"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert str(picture) in said.err
    else:
        assert "machat[bench]" in said.err


# ---- embedding ----


class Chat:
    """So many are connected."""

    connections = 0


@pytest.mark.anyio
async def test_what_keeps_the_loop_busy_is_noted_by_the_task_beside_it() -> None:
    chat = Chat()
    chat.connections = 1
    neighbour = Neighbour(chat, 2)  # type: ignore[arg-type]
    late = neighbour.late["arriving"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(neighbour.run)
        await anyio.wait_all_tasks_blocked()
        before = len(late)
        began = time.monotonic()
        time.sleep(0.03)  # noqa: ASYNC251 - as a chat would that lets nobody else have a turn
        busy = time.monotonic() - began
        while len(late) == before:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert late[before] > busy - 0.0011  # it asked to sleep for a millisecond, before the loop was busy


def test_it_is_told_apart_what_the_members_were_doing() -> None:
    chat = Chat()
    neighbour = Neighbour(chat, 2)  # type: ignore[arg-type]
    for now, connections in ((1, 0), (2, 1), (3, 2), (3.05, 2), (4, 2), (5, 1), (6, 0), (7, 0)):
        chat.connections = connections
        neighbour.note(now, now - now / 1000)
    assert neighbour.late == {"arriving": [0.002], "there": [0.004], "leaving": [0.005, 0.006]}
    assert neighbour.left.is_set()


def test_embedding_is_measured_without_a_chat_at_rest_and_under_load(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ("machat-asyncio", "machat-trio")
    assert embedding.run(dataclasses.replace(options, only=only, seconds=0.5)) == 0
    found = tables(capsys.readouterr().out)
    asked = list(embedding.situations(options))
    assert asked == [
        "nothing to do: there is no chat",
        "10 members at rest",
        "10 members, ten talk as fast as they can",
        "90 members, a line each half second",
    ]
    lasting = found["how long other tasks wait"]
    assert [(row["the chat has"], row["server"]) for row in lasting] == [(what, s) for what in asked for s in only]
    for row in lasting:
        shown = [int(row[title].replace(",", "")) for title in ("p50", "p99", "p99.9", "longest")]
        assert shown == sorted(shown)
        assert row["turns"].replace(",", "").isdigit()
        assert row["lost"] == ("" if row["the chat has"] == asked[0] else "0")
    assert [row["server"] for row in found["while these come in"]] == list(only)
    assert [row["server"] for row in found["while these leave, all at once"]] == list(only)
    runs = results(options, "embedding")["runs"]
    assert [(run["situation"], run["subject"]) for run in runs] == [(what, s) for what in asked for s in only]
    for run in runs:
        if run["situation"] == asked[0]:
            assert run["load"] is None
            assert list(run["late"]) == ["there"]
        else:
            assert run["load"]["deliveries"] == run["load"]["expected"]
            assert (run["load"]["deliveries"] > 0) == ("at rest" not in run["situation"])
            assert {"there"} <= run["late"].keys() <= {"arriving", "there", "leaving"}


def test_embedding_is_about_event_loops(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert embedding.run(dataclasses.replace(options, only=("redis",))) == 2
    assert "machat-trio" in capsys.readouterr().err


# ---- start ----


def test_a_start_is_timed_and_what_it_imports_is_told(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    assert start.run(options) == 0
    found = tables(capsys.readouterr().out)
    there = found["until it is there, in ms"]
    assert [row[""].split()[-1] for row in there] == ["alone", *["interpreter"] * 4, "connection", "listens", "in"]
    largest = found["the ten largest parts of `from chatapi import ChatAPI`, in ms"]
    content = results(options, "start")
    seconds = {run["what"]: run["seconds"] for run in content["runs"]}
    assert set(seconds) == {*start.CODE, start.START, start.PARTS}
    assert 0 < seconds[start.START]["connection"] <= seconds[start.START]["member"]
    parts = seconds[start.PARTS]
    assert {"chatapi", "pydantic", "anyio"} <= set(parts)
    assert [row["package"] for row in largest] == sorted(parts, key=parts.__getitem__, reverse=True)[:10]
    modules = {what: set(names) for what, names in content["modules"].items()}
    imported = found["what is imported"]
    assert [(row[""], int(row["modules"])) for row in imported] == [
        (what, len(names)) for what, names in modules.items()
    ]
    assert [int(row["its own"]) > 0 for row in imported] == [False, False, True, True, True]
    assert modules[start.NOTHING] < modules[start.BELOW]
    assert {"chatapi.server.poller", "pydantic", "anyio"} <= modules[start.SERVING]


def test_modules_are_added_where_neither_anyio_nor_pydantic_brings_them() -> None:
    below = {"anyio", "email"}
    text = start.about({start.NOTHING: set(), start.BELOW: below, "all": below | {"chatapi.chat", "heapq", "sqlite3"}})
    assert "| all | 5 | 1 | 2 | sqlite3 |\n" in text
    assert f"| {start.BELOW} | 2 | 0 | 0 | none |\n" in text
    assert "anyio and pydantic import: email.\n" in text
    assert "sqlite3" in text.partition("looked for: ")[2]


def test_ten_starts_at_least_where_it_is_not_just_tried_out() -> None:
    assert [start.runs(Options(runs=n, scale=scale)) for n, scale in ((3, 1), (20, 1), (2, 0.1))] == [10, 20, 2]


# ---- what they share ----


def test_jobs_take_turns_and_what_there_is_survives_ctrl_c(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def job(name: str, at_most: int = 99) -> int:
        if done.count(name) == at_most:
            raise KeyboardInterrupt
        done.append(name)
        return len(done)

    found = in_turns(3, {("a", "x"): lambda: job("a"), ("b", "x"): lambda: job("b", 1)}, 1)
    assert done == ["a", "b", "a"]
    assert (found.of("a", "x"), found.of("b", "x"), found.of("c", "x")) == ({1: 1, 2: 3}, {1: 2}, {})
    assert found.interrupted
    assert "b on x" in capsys.readouterr().err
    assert publish(options, "some", [SUBJECTS["machat"]], {"title": "text"}, {"runs": [1]}, interrupted=True) == 130
    page = capsys.readouterr().out
    assert "Interrupted" in page
    assert "\n## title\n\ntext" in page
    written = json.loads((options.folder / "some.json").read_text())
    assert (written["runs"], written["interrupted"], list(written["subjects"])) == ([1], True, ["machat"])


def test_a_table_has_medians_with_the_lowest_and_the_highest() -> None:
    rows: Sequence[Sequence[str]] = [["a", spread([3, 1, 2000])], ["b"]]
    assert markdown(["", "x"], rows) == "|  | x |\n| --- | ---: |\n| a | 3 (1–2,000) |\n| b |  |\n"
    assert spread([0.5, 0.5], "{:.1f}") == "0.5"


@pytest.mark.parametrize("study", ["growth", "embedding", "start"])
def test_the_studies_are_listed(study: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["-h"])
    assert ended.value.code == 0
    assert f"\n  {study} " in capsys.readouterr().out
