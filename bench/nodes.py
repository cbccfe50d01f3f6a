"""What two nodes and one Redis carry: lines from node to node, how long they take, and what each part takes for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import median
from typing import Any, Final

from . import across, machine, report, script, upkeep
from .across import ACROSS, MACHAT, ON_DISK, PUBLISHED, REDIS, ROUND_TRIP, SOCKETIO, Crossing
from .load import Figures, Load
from .options import Options
from .report import markdown, spread
from .script import Calling, Rate, claimed_and_released, said
from .servers import Failure
from .study import STARTING_AND_ENDING, Found, Key, in_turns, publish

SATURATED: Final = "100 rooms of 10, 64 on their way in each"
"""What is also measured with a Redis that writes to disk."""
_LATENCY: Final = "latency"
_UPKEEP: Final = "upkeep"
_LATENCY_TIMES: Final = 2
"""A hundred lines in each second are few."""


def loads(options: Options) -> dict[str, Load]:
    """What is put on two nodes."""

    def load(rooms: int, members: int, **more: Any) -> Load:
        rooms = max(1, round(rooms * options.scale)) if rooms > 1 else 1
        members = max(3, round(members * options.scale)) if members > 20 else members
        return Load(rooms=rooms, members=members, seconds=options.seconds, **more)

    return {
        "one room of 11, 256 lines on their way": load(1, 11, window=256),
        "10 rooms of 11, 64 on their way in each": load(10, 11, window=64),
        SATURATED: load(100, 10, window=64),
        "the same, both ways: two talk, one on each node": load(100, 10, talkers=2, window=32),
        "100 rooms of 10, one on its way in each": load(100, 10, window=1),
        "100 rooms of 10, 1,000 lines a second in all": load(100, 10, rate=1000),
        "one room of 1,000, 10 lines a second": load(1, 1000, rate=10),
    }


def quiet(options: Options) -> dict[str, Load]:
    """Members that say nothing."""

    def load(rooms: int, members: int) -> Load:
        rooms = max(1, round(rooms * options.scale))
        return Load(rooms=rooms, members=members, talkers=0, seconds=options.seconds)

    return {"1,000 rooms of 10, five on each node": load(1000, 10), "5,000 rooms of two, one on each": load(5000, 2)}


def others(options: Options) -> dict[str, Load]:
    """What is put on two servers of python-socketio: with more lines on their way it delivers fewer."""
    mine = loads(options)
    first, many = next(iter(mine)), mine[SATURATED]
    return {
        first: mine[first],
        "100 rooms of 10, 8 on their way in each": replace(many, window=8),
        "100 rooms of 10, 200 lines a second in all": replace(many, window=0, rate=200),
    }


CALLS: Final = {
    "PUBLISH of a line, no script": Calling(None),
    "a line": Calling(lambda _: said(1)),
    "10 lines in a run": Calling(lambda _: said(10), 10),
    "50 lines in a run": Calling(lambda _: said(50), 50),
    "200 lines in a run": Calling(lambda _: said(200), 200),
    "a message with an id": Calling(lambda _: said(1, ids=True)),
    "10 messages with ids": Calling(lambda _: said(10, ids=True), 10),
    "50 messages with ids": Calling(lambda _: said(50, ids=True), 50),
    "200 messages with ids": Calling(lambda _: said(200, ids=True), 200),
    "a line in each of 10 rooms": Calling(lambda _: said(1), rooms=10),
    "a line in each of 100 rooms": Calling(lambda _: said(1), rooms=100),
    "a line in each of 100 rooms, each a call of its own": Calling(lambda _: said(1), rooms=100, apart=True),
    "a line, 20 nodes hear it": Calling(lambda _: said(1), listeners=20),
    "50 lines in a run, 20 nodes hear it": Calling(lambda _: said(50), 50, listeners=20),
    "a member comes and leaves": Calling(lambda caller: claimed_and_released(caller, 1)),
    "50 members come and leave": Calling(lambda caller: claimed_and_released(caller, 50), 50),
}
"""What is asked of Redis alone, by what one call does."""
_ON_DISK: Final = ("a line", "50 lines in a run")


def run(options: Options) -> int:
    """Measure everything; returns the program's exit code."""
    mine, theirs = loads(options), others(options)
    jobs: dict[Key, Callable[[], Any]] = {}
    jobs |= {(what, MACHAT.name): partial(across.cross, REDIS, MACHAT, load) for what, load in mine.items()}
    jobs[SATURATED, ON_DISK.name] = partial(across.cross, ON_DISK, MACHAT, mine[SATURATED])
    jobs |= {(what, SOCKETIO.name): partial(across.cross, REDIS, SOCKETIO, load) for what, load in theirs.items()}
    jobs |= {(what, MACHAT.name): partial(across.rest, load) for what, load in quiet(options).items()}
    jobs[_LATENCY, MACHAT.name] = partial(across.latency, _LATENCY_TIMES * options.seconds)
    short = max(0.1, options.seconds / 2)
    jobs |= {(what, REDIS.name): partial(script.call, REDIS, calling, short) for what, calling in CALLS.items()}
    jobs |= {(what, ON_DISK.name): partial(script.call, ON_DISK, CALLS[what], short) for what in _ON_DISK}
    found = in_turns(options.runs, jobs, 0.7 * options.seconds + STARTING_AND_ENDING)
    kept = Failure("interrupted") if found.interrupted else upkeep.measure(REDIS, options.scale)
    sections = {
        "lines from node to node": _crossings(found, mine, theirs),
        "a hundred lines a second from node to node": _latency(found),
        "members that say nothing": _quiet(found, quiet(options)),
        "one Redis, its script called directly": _calls(found),
        "what Redis holds, and what looking after it takes": _upkeep(kept),
    }
    content = {
        "loads": {what: asdict(load) for what, load in {**mine, **theirs, **quiet(options)}.items()},
        "runs": found.runs("what", _flat),
        _UPKEEP: report.flat(kept) if isinstance(kept, Failure) else {"bytes": kept[0], "microseconds": kept[1]},
    }
    return publish(
        options, "nodes", [MACHAT, REDIS, ON_DISK, SOCKETIO], sections, content, interrupted=found.interrupted
    )


def _flat(result: Any) -> dict[str, Any]:
    return result if isinstance(result, dict) else report.flat(result)


_CROSSINGS: Final = """\

Who talks is on node A, who hears on node B, unless it is said otherwise; lines have 64 bytes. Cores: {cores}.
Where these are not four, lines a second are what the machine has room for; µs a line are the processor time of each
part, and CPU seconds for a million lines too: that is what scales. A batch is what a node says in one room in one go:
one XADD, one PUBLISH. A call of the script has the batches of several rooms. python-socketio's manager publishes each
line by itself.
"""
_LATENCY_TEXT: Final = """\

From when a line was due, or was published. PUBLISH to SUBSCRIBE and the script, which gives back its argument, are
those of coredis, in processes of their own and on the same event loop as the nodes, unless it is said otherwise. A line
from node to node takes {ratio} times as long as both of them together.
"""
_CALLS_TEXT: Final = """\

{callers} callers stand for nodes, each with one call on its way; {listeners} connections hear what is published, where
nothing else is said. Rooms keep 1,000 messages, so that as much is forgotten as comes. Where Redis's share of its core
is well below 100 %, the callers were the limit, and µs tell more.
"""


def _crossings(found: Found[Any], mine: Mapping[str, Load], theirs: Mapping[str, Load]) -> str:
    def cells(runs: Sequence[Crossing]) -> list[str]:
        timed = runs[0].figures.latency_p50
        p50, p99 = (
            spread([getattr(run.figures, name) for run in runs]) if timed else ""
            for name in ("latency_p50", "latency_p99")
        )
        return [
            spread([run.lines_per_second for run in runs]),
            f"{median(run.figures.deliveries_per_second for run in runs):,.0f}",
            f"{median(run.batch for run in runs):,.1f}",
            f"{median(run.together for run in runs):,.1f}",
            *(spread([run.cpu(part) for run in runs], "{:,.1f}") for part in range(3)),
            p50,
            p99,
            f"{max(run.figures.lost for run in runs):,}",
            f"{max(run.figures.disordered for run in runs):,}",
        ]

    titles = ["", "", "lines/s", "deliveries/s", "lines a batch", "batches a call", "Redis µs a line", "A µs", "B µs"]
    titles += ["p50 µs", "p99 µs", "lost", "doubled or late"]
    rows = [
        *((what, MACHAT.name) for what in mine),
        (SATURATED, ON_DISK.name),
        *((what, SOCKETIO.name) for what in theirs),
    ]
    return markdown(titles, [[*row, *_cells(found, row, cells)] for row in rows], words=2) + _CROSSINGS.format(
        cores=_cores()
    )


def _cores() -> str:
    cores = [*(across.core(number) for number in range(3)), machine.load_core()]
    if None in cores:
        return "one for all"
    return "Redis on {}, A on {}, B on {}, the load on {}".format(*cores)


def _latency(found: Found[Any]) -> str:
    runs = [run for run in found.of(_LATENCY, MACHAT.name).values() if not isinstance(run, Failure)]
    if not runs:
        return "".join(run.reason for run in found.of(_LATENCY, MACHAT.name).values()) + "\n"
    rows = [[way, *(spread([run[way][part] for run in runs]) for part in range(2))] for way in runs[0]]
    line, told, script_ = (median(run[way][0] for run in runs) for way in (ACROSS, PUBLISHED, ROUND_TRIP))
    return markdown(["", "p50 µs", "p99 µs"], rows) + _LATENCY_TEXT.format(ratio=f"{line / (told + script_):.2f}")


def _quiet(found: Found[Any], loads: Mapping[str, Load]) -> str:
    def cells(runs: Sequence[Figures]) -> list[str]:
        each = [
            spread([getattr(run, name) for run in runs]) for name in ("bytes_per_connection", "connects_per_second")
        ]
        return [*each, f"{max(run.disconnects for run in runs):,}"]

    titles = ["", "bytes of the nodes for each", "connects/s", "disconnects"]
    return markdown(titles, [[what, *_cells(found, (what, MACHAT.name), cells)] for what in loads])


def _calls(found: Found[Any]) -> str:
    def cells(runs: Sequence[Rate]) -> list[str]:
        return [
            spread([run.per_second for run in runs]),
            spread([run.cpu for run in runs], "{:,.2f}"),
            f"{median(run.call for run in runs):,.0f}",
            f"{100 * median(run.share for run in runs):.0f} %",
        ]

    rows = [*((what, REDIS.name) for what in CALLS), *((what, ON_DISK.name) for what in _ON_DISK)]
    titles = ["one call", "", "each a second", "Redis µs each", "Redis µs a call", "Redis's core"]
    text = _CALLS_TEXT.format(callers=script.CALLERS, listeners=script.LISTENERS)
    return markdown(titles, [[*row, *_cells(found, row, cells)] for row in rows], words=2) + text


def _upkeep(kept: tuple[upkeep.Upkeep, upkeep.Upkeep] | Failure) -> str:
    if isinstance(kept, Failure):
        return f"{kept.reason}\n"
    held, taken = (
        markdown(["", title], [[what, f"{each:,.0f}"] for what, each in figures.items()])
        for title, figures in zip(("bytes of Redis each", "Redis µs"), kept, strict=True)
    )
    return f"{held}\n{taken}"


def _cells(found: Found[Any], key: Key, cells: Callable[[Sequence[Any]], list[str]]) -> list[str]:
    """The figures of a job's runs, or why there are none."""
    runs = list(found.of(*key).values())
    if done := [run for run in runs if not isinstance(run, Failure)]:
        return cells(done)
    return [run.reason for run in runs][:1] or ["not measured"]
