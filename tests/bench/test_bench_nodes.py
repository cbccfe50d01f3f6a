"""The study `nodes`, small and short: what it saw and counted, never how fast it was."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis_servers import RedisServer, needs_redis

from bench import across, nodes
from bench.__main__ import main
from bench.across import MACHAT, REDIS, cross
from bench.load import Load, LoadFailed, Protocol, Step, run_load
from bench.options import Options
from bench.resp import Redis
from bench.script import LISTENERS, Calling, Calls, said
from bench.servers import Failure, ServerFailed, running

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="the load generator needs Linux's epoll"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the load generator needs a C compiler"),
    needs_redis,
]


def test_the_study_finds_that_every_line_crosses_and_what_each_part_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saturated, lone = nodes.SATURATED, "two rooms, lone lines"
    loads = {
        saturated: Load(rooms=2, members=4, window=8, seconds=0.2),
        "both ways": Load(rooms=2, members=4, talkers=2, window=8, seconds=0.2),
        lone: Load(rooms=2, members=3, rate=200, seconds=0.3),
    }
    monkeypatch.setattr(nodes, "loads", lambda options: loads)
    monkeypatch.setattr(nodes, "others", lambda options: {lone: loads[lone]})
    asked = {what: nodes.CALLS[what] for what in ("a line", "10 messages with ids", "50 lines in a run")}
    monkeypatch.setattr(nodes, "CALLS", asked)
    assert main(["nodes", "-n", "1", "-seconds", "0.1", "-scale", "0.01", "-o", str(tmp_path)]) == 0
    page, results = capsys.readouterr().out, json.loads((tmp_path / "nodes.json").read_text())
    runs: dict[tuple[str, str], dict[str, Any]] = {(run["what"], run["subject"]): run for run in results["runs"]}
    ours = [*((what, "machat") for what in loads), (saturated, "redis-everysec")]
    for key in ours:
        figures = runs[key]["figures"]
        assert figures["lost"] == figures["disordered"] == figures["disconnects"] == 0
        assert figures["deliveries"] == figures["expected"] > 0
        assert len(figures["server_cpu_each"]) == 3
        assert f"| {' | '.join(key)} | " in page
    assert runs[saturated, "machat"]["batch"] >= 1
    other = runs[lone, "socketio"]
    assert "failed" in other or other["figures"]["expected"] > 0
    for way in (across.ACROSS, across.HERE, across.PUBLISHED, across.ROUND_TRIP):
        p50, p99 = runs["latency", "machat"][way]
        assert p50 <= p99
        assert f"| {way} | {p50:,.0f} | {p99:,.0f} |" in page
    for what in asked:
        assert {"per_second", "cpu"} <= runs[what, "redis"].keys() or "no call" in runs[what, "redis"]["failed"]
        assert f"| {what} | redis | " in page
    for what, load in nodes.quiet(Options(scale=0.01)).items():
        assert runs[what, "machat"]["ready"] == load.connections
        assert "bytes_per_connection" in runs[what, "machat"]
    for kind in ("bytes", "microseconds"):
        assert results["upkeep"][kind]
        for what, figure in results["upkeep"][kind].items():
            assert f"| {what} | {figure:,.0f} |" in page


def test_whatever_callers_send_is_kept() -> None:
    with running(REDIS) as server, Redis(server.port) as redis:
        for tag, lines, ids in (("r0000", 3, False), ("r0000", 3, True)):
            before = int(redis.ask("HGET", f"machat:{{{tag}}}:meta", "seq") or 0)
            with Calls(server.port, Calling(lambda _, lines=lines, ids=ids: said(lines, ids), lines)) as calls:
                rate = calls.run(server.pids, 1)
                assert redis.ask("PUBSUB", "NUMSUB", f"machat:{{{tag}}}")[1] == LISTENERS
            after = int(redis.ask("HGET", f"machat:{{{tag}}}:meta", "seq"))
            assert after - before >= rate.per_second  # lines that were said before would be dropped


def test_a_caller_that_is_refused_is_told_of() -> None:
    with (
        running(REDIS) as server,
        Redis(server.port) as redis,
        Calls(server.port, Calling(lambda _: said(1))) as calls,
    ):
        redis.ask("FLUSHALL")
        with pytest.raises(LoadFailed, match="epoch"):
            calls.run(server.pids, 0.3)


def test_an_error_of_redis_is_told_of() -> None:
    with RedisServer() as server, Redis(server.port) as redis:
        assert redis.ask("PING") == b"PONG"
        with pytest.raises(ServerFailed, match="unknown command"):
            redis.ask("NONSENSE")
        assert redis.ask("LPUSH", "a", "x", b"y") == 2
        assert redis.ask("LRANGE", "a", 0, -1) == [b"y", b"x"]
        assert redis.ask("GET", "b") is None
        assert redis.calls("lpush") == 1


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        (lambda: "there is none", "there is none"),
        (lambda: "", "no such luck"),
    ],
    ids=["a program is missing", "a node ends"],
)
def test_why_there_are_no_figures_is_told(missing: Callable[[], str], why: str) -> None:
    broken = replace(MACHAT, missing=missing, command=("python", "-c", "import sys; sys.exit('no such luck')"))
    found = cross(REDIS, broken, Load(members=2, window=1, seconds=0.1))
    assert isinstance(found, Failure)
    assert why in found.reason


def test_the_members_of_a_room_go_through_the_ports_in_turns() -> None:
    came: list[set[str]] = [set(), set()]

    def serve(listener: socket.socket, names: set[str], count: int) -> None:
        connections = []
        for _ in range(count):
            connection = listener.accept()[0]
            names.add(connection.makefile().readline().split()[0])
            connection.sendall(b"ok\n")
            connections.append(connection)
        for connection in connections:
            connection.recv(1)  # until the load has ended
            connection.close()

    protocol = Protocol(hello=(Step("%n\n", wait="ok\n"),), publish=lambda payload: "%t\n", echo=True)
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in came]
        threads = [
            threading.Thread(target=serve, args=args, daemon=True) for args in zip(listeners, came, (4, 2), strict=True)
        ]
        for thread in threads:
            thread.start()
        ports = [listener.getsockname()[1] for listener in listeners]
        figures = run_load(Load(rooms=2, members=3, talkers=0, seconds=0.1), protocol, ports)
        for thread in threads:
            thread.join()
    assert figures.ready == 6
    assert came == [{"u000000", "u000002", "u000003", "u000005"}, {"u000001", "u000004"}]
