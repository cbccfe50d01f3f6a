"""The command line of `python -m bench`, the order of its runs, and the pages that it fills."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import sys
from pathlib import Path

import pytest

from bench import publish
from bench.__main__ import build_parser, main
from bench.load import Figures
from bench.measure import Job, Options, Progress, jobs, measure
from bench.results import Failure, Results, Run
from bench.subjects import SUBJECTS
from bench.tables import markdown, spread
from bench.workloads import GROUPS, GROWTH, WORKLOADS


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("-w", "W9"), "'W9'"),
        (("-only", "nobody"), "'nobody'"),
        (("-n", "0"), "-n"),
        (("-n", "two"), "'two'"),
        (("-seconds", "nan"), "-seconds"),
        (("-scale", "2"), "-scale"),
        (("-onyl", "machat"), "-only"),
        (("-full", "nobody"), "'nobody'"),
        (("weather",), "weather"),
        (("publish",), "publish"),
    ],
)
def test_a_wrong_flag_gets_one_line(flags: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert word in said.err


def test_a_folder_that_cannot_be_written_to_is_told_of_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["-o", str(tmp_path / "taken")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("python -m bench: -o ")
    assert said.err.count("\n") == 1


def test_what_can_be_measured_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-list"]) == 0
    listed = capsys.readouterr().out
    for name in (*SUBJECTS, *GROUPS[""], GROWTH):
        assert f"\n{name} " in f"\n{listed}"


@pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs Linux's epoll")
@pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler")
def test_a_short_run_delivers_each_line_once(tmp_path: Path) -> None:
    measure(Options(workloads=["W3"], only=["machat"], runs=1, seconds=0.1, scale=0.05, folder=tmp_path))
    results = Results.read(tmp_path / "results.json")
    assert [(run.workload, run.subject) for run in results.runs] == [("W3", "floor"), ("W3", "machat")]
    for subject in ("floor", "machat"):
        (figures,) = results.figures("W3", subject)
        assert figures.deliveries == figures.expected > 0
        assert figures.lost == figures.disordered == figures.disconnects == 0


# The order of the runs


def order(options: Options) -> list[Job]:
    subjects = [SUBJECTS[name] for name in ("floor", "machat", "streams")]
    return list(jobs(options, subjects))


def test_servers_take_turns() -> None:
    found = order(Options(workloads=["W1", "W2"], runs=2))
    names = [(workload, subject) for workload in ("W1", "W2") for subject in ("floor", "machat", "streams")]
    assert [(job.workload.name, job.subject.name) for job in found] == 2 * names
    assert [job.turn for job in found] == 6 * [1] + 6 * [2]


def test_a_server_that_is_not_measured_in_full_has_shorter_and_fewer_runs() -> None:
    found = order(Options(workloads=["W1", "W4"], full=["machat"], runs=5, seconds=10))
    seconds = {
        (name, workload): [
            job.workload.load.seconds for job in found if (job.subject.name, job.workload.name) == (name, workload)
        ]
        for name in ("floor", "machat", "streams")
        for workload in ("W1", "W4")
    }
    assert seconds["floor", "W1"] == seconds["machat", "W1"] == [10] * 5
    assert seconds["machat", "W4"] == [5] * 5
    assert seconds["streams", "W1"] == [2] * 3
    assert seconds["streams", "W4"] == [1] * 3


def test_growth_is_measured_on_this_server_and_the_floor() -> None:
    found = order(Options(workloads=GROUPS[GROWTH], runs=1))
    assert {job.subject.name for job in found} == {"floor", "machat"}
    assert {job.workload.name for job in found} == set(GROUPS[GROWTH])


def test_along_an_axis_one_thing_grows_and_everything_else_stays() -> None:
    grows = {"members": "members", "rooms": "rooms", "bytes": "payload", "senders": "talkers"}
    for axis, name in grows.items():
        loads = {w.size: w.load for w in WORKLOADS.values() if w.axis == axis}
        assert [getattr(load, name) for load in loads.values()] == list(loads)
        fixed = [dataclasses.replace(load, **{name: 1, "window": 1}) for load in loads.values()]
        assert fixed.count(fixed[0]) == len(fixed)
        assert len({load.talkers * load.window for load in loads.values()}) == 1, "lines on their way in a room"


def test_the_progress_tells_how_long_it_still_takes() -> None:
    stream = io.StringIO()
    progress = Progress([10, 20, 270], stream)
    for name in ("a", "b", "c"):
        progress.next(name)
    assert stream.getvalue().splitlines() == [
        "1 of 3: a, about 5 min left",
        "2 of 3: b, about 5 min left",
        "3 of 3: c, about 4 min left",
    ]


# Tables and pages


def test_a_table_has_medians_with_the_lowest_and_the_highest() -> None:
    rows = [["a", spread([3, 1, 2000])], ["b"]]
    assert markdown(["", "x"], rows) == "|  | x |\n| --- | ---: |\n| a | 3 (1–2,000) |\n| b |  |\n"
    assert spread([0.5, 0.5], "{:.1f}") == "0.5"


def made_up(commit: str = "abc1234") -> Results:
    """Results in which everything was measured three times."""
    names = ("floor", "machat", *publish.VARIANTS[1:], "redis")
    figures = {field.name: 1 for field in dataclasses.fields(Figures)}

    def run(workload: str, subject: str, turn: int) -> Run:
        speed = 1e6 * turn * (4 if subject == "machat" else 2)
        return Run(workload, subject, turn, Figures(**figures | {"deliveries_per_second": speed}))  # type: ignore[arg-type]

    return Results(
        dict.fromkeys(("date", "processor", "pinning", "system", "python", "command"), "x") | {"commit": commit},
        {name: dict.fromkeys(("what", "version", "command", "missing"), "") for name in names},
        {name: {"what": WORKLOADS[name].what, "load": dataclasses.asdict(WORKLOADS[name].load)} for name in WORKLOADS},
        [run(workload, subject, turn) for turn in (1, 2, 3) for workload in WORKLOADS for subject in names],
    )


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Copies of the pages with figures, into which is published."""
    copies = []
    for page in publish.PAGES:
        copies.append(tmp_path / page.name)
        shutil.copy(page, copies[-1])
    monkeypatch.setattr(publish, "PAGES", tuple(copies))
    monkeypatch.setattr(publish, "PUBLISHED", tmp_path / "published.json")
    monkeypatch.setattr(publish.picture, "draw", lambda *arguments: [])
    return copies


def test_the_pages_have_the_figures_of_the_published_run() -> None:
    results = Results.read(publish.PUBLISHED)
    for page in publish.PAGES:
        text = page.read_text(encoding="utf-8")
        assert publish.fill(text, results) == text, f"run `python -m bench publish {publish.PUBLISHED}`"


def test_every_table_has_its_place_on_one_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in publish.PAGES)
    names = re.findall(r"<!-- measured: (\w+) -->", text)
    assert sorted(names) == sorted(publish.NAMES)


def test_results_are_published_with_all_their_runs(tmp_path: Path, pages: list[Path]) -> None:
    results = made_up()
    results.write(tmp_path / "results.json")
    assert publish.main(tmp_path / "results.json") == 0
    assert Results.read(publish.PUBLISHED) == results
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    assert "8.0 (4.0–12.0)" in text
    assert "4.0 million to JSON members" in text


@pytest.mark.parametrize("reason", ["changes", "interrupted", "a server failed", "not results"])
def test_results_that_say_too_little_are_not_published(
    reason: str, tmp_path: Path, pages: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    results = made_up("abc1234 with changes" if reason == "changes" else "abc1234")
    results.interrupted = reason == "interrupted"
    if reason == "a server failed":
        results.runs = [
            r if r.subject != "redis" else dataclasses.replace(r, result=Failure("x")) for r in results.runs
        ]
    results.write(tmp_path / "results.json")
    if reason == "not results":
        (tmp_path / "results.json").write_text("{}")
    before = [page.read_text() for page in pages]
    assert publish.main(tmp_path / "results.json") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert [page.read_text() for page in pages] == before
    assert not publish.PUBLISHED.exists()


def test_the_page_names_everything_that_can_be_asked_for() -> None:
    page = publish.PAGES[0].read_text(encoding="utf-8")
    flags = {name for action in build_parser()._actions for name in action.option_strings if not name.startswith("--")}
    assert {flag for flag in flags if flag not in ("-h", "-help")} == set(re.findall(r"`(-[a-z]+)", page))
    assert set(re.findall(r"[\w-]+", page)) >= {*SUBJECTS, *GROUPS[""]}
