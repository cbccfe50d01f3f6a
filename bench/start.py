"""How long does the server take until it is there, and what is imported for it?"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from . import machine
from .options import Options
from .report import markdown, spread
from .study import Found, Key, in_turns, publish
from .subjects import OURS, SUBJECTS

RUNS: Final = 10
"""At least, since a start is short; fewer where a scale says that it is only tried out."""
NOTHING: Final = "the interpreter alone"
BELOW: Final = "anyio and pydantic, with one model"
SERVING: Final = "`from chatapi import ChatAPI`"
CODE: Final = {
    NOTHING: "pass",
    BELOW: "import anyio.abc, anyio.from_thread, pydantic; type('Model', (pydantic.BaseModel,), {})",
    "`import chatapi`": "import chatapi",
    SERVING: "from chatapi import ChatAPI",
    "`from chatapi import connect`": "from chatapi import connect",
}
"""Both libraries import most of themselves when it is first used: `import anyio, pydantic` alone would say little."""
START: Final = "`python cmd/chatserver`"
PARTS: Final = "parts"
HEAVY: Final = (
    *("argparse", "asyncio", "concurrent.futures", "csv", "ctypes", "decimal", "difflib", "email", "hashlib", "html"),
    *("http", "importlib.metadata", "inspect", "logging", "lzma", "multiprocessing", "optparse", "pickle", "pydoc"),
    *("random", "secrets", "smtplib", "sqlite3", "ssl", "statistics", "subprocess", "tarfile", "tempfile", "tkinter"),
    *("tomllib", "unittest", "urllib.parse", "urllib.request", "uuid", "xml", "zipfile", "trio", "uvloop"),
)
"""What takes a while or much memory: of the standard library, and the event loops, which are the program's choice."""
_SHOWN: Final = 10
_DEADLINE: Final = 20.0
_HELLO: Final = b'{"name":"first","room":"start","protocol":"json"}\n'


def run(options: Options) -> int:
    """Measure everything; returns the program's exit code."""
    modules = {what: _modules(code) for what, code in CODE.items()}  # which also warms the caches up
    jobs: dict[Key, Callable[[], dict[str, float]]] = {(what,): partial(_seconds, code) for what, code in CODE.items()}
    jobs |= {(START,): _start, (PARTS,): partial(_parts, modules[NOTHING])}
    found = in_turns(runs(options), jobs, 0.2)
    sections = {
        "until it is there, in ms": _times(found),
        f"the ten largest parts of {SERVING}, in ms": _largest(found, modules[SERVING] - modules[NOTHING]),
        "what is imported": about(modules),
    }
    content = {
        "runs": [
            {"what": what, "turn": turn, "seconds": seconds}
            for (what,), results in found.results.items()
            for turn, seconds in results.items()
        ],
        "modules": {what: sorted(names) for what, names in modules.items()},
    }
    return publish(options, "start", [SUBJECTS[OURS]], sections, content, interrupted=found.interrupted)


def runs(options: Options) -> int:
    """How often everything is measured."""
    return max(options.runs, RUNS if options.scale == 1 else 1)


# ---- measuring ----


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    with machine.on_core(machine.server_core()):
        return subprocess.run(
            [sys.executable, *arguments], cwd=machine.ROOT, capture_output=True, text=True, check=True
        )


def _seconds(code: str) -> dict[str, float]:
    began = time.monotonic()
    _python("-c", code)
    return {"whole": time.monotonic() - began}


def _modules(code: str) -> set[str]:
    return set(_python("-c", f"{code}\nimport sys\nprint(*sys.modules)").stdout.split())


def _parts(without: set[str]) -> dict[str, float]:
    """What each package's own modules take. Python measures that itself, which makes it slower."""
    parts: Counter[str] = Counter()
    for line in _python("-X", "importtime", "-c", CODE[SERVING]).stderr.splitlines():
        timed = re.fullmatch(r"import time: +(\d+) \| +\d+ \| +(\S+)", line)
        if timed and timed[2] not in without:
            parts[timed[2].partition(".")[0]] += int(timed[1])
    return {package: microseconds / 1e6 for package, microseconds in parts.items()}


def _start() -> dict[str, float]:
    """Start the server; how long until it took a connection, said that it listens, and let a member in."""
    port, times = machine.free_port(), {}
    with tempfile.TemporaryDirectory(dir=machine.scratch()) as folder:
        command = SUBJECTS[OURS].prepare(port, Path(folder))
        began = time.monotonic()
        with machine.on_core(machine.server_core()):
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=machine.ROOT,
                start_new_session=True,
            )
        with process:
            try:
                with _connected(port, process) as link:
                    times["connection"] = time.monotonic() - began
                    assert process.stdout is not None
                    said = process.stdout.readline()
                    times["line"] = time.monotonic() - began
                    link.sendall(_HELLO)
                    welcome = link.recv(1024)
                    times["member"] = time.monotonic() - began
            finally:
                process.kill()
    if b"listening on" not in said or b"welcome" not in welcome:
        raise machine.CannotMeasure(f"the server did not start: {said!r}, {welcome!r}")
    return times


def _connected(port: int, process: subprocess.Popen[bytes]) -> socket.socket:
    deadline = time.monotonic() + _DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return socket.create_connection(("127.0.0.1", port), _DEADLINE)
        except OSError:
            time.sleep(0.0005)
    raise machine.CannotMeasure("the server did not start")


# ---- showing ----


def _ms(seconds: list[float]) -> str:
    return spread([1000 * value for value in seconds], "{:.0f}")


def _times(found: Found[dict[str, float]]) -> str:
    base, starts = found.of(NOTHING), found.of(START).values()
    rows = [[NOTHING, _ms([times["whole"] for times in base.values()])]] if base else []
    for what in list(CODE)[1:]:
        if more := [times["whole"] - base[turn]["whole"] for turn, times in found.of(what).items()]:
            rows.append([f"{what}, without the interpreter", _ms(more)])
    steps = {"connection": "takes a connection", "line": "says that it listens", "member": "has let a member in"}
    if starts:
        rows += [[f"{START} {what}", _ms([times[step] for times in starts])] for step, what in steps.items()]
    return markdown(["", "median (lowest–highest)"], rows)


def _largest(found: Found[dict[str, float]], modules: set[str]) -> str:
    runs = list(found.of(PARTS).values())
    if not runs:
        return "not measured\n"
    counts = Counter(name.partition(".")[0] for name in modules)
    parts = {package: [run.get(package, 0) for run in runs] for package in runs[0]}
    largest = sorted(parts, key=lambda package: median(parts[package]), reverse=True)[:_SHOWN]
    rows = [[package, f"{counts[package]:,}", _ms(parts[package])] for package in largest]
    return markdown(["package", "modules", "its own code"], rows)


def about(modules: Mapping[str, set[str]]) -> str:
    """What is imported, and for whom."""
    rows = []
    for what, names in modules.items():
        own = {name for name in names if name.partition(".")[0] == "chatapi"}
        added = names - own - modules[BELOW]
        heavy = [name for name in HEAVY if name in added]
        rows.append([what, f"{len(names)}", f"{len(own)}", f"{len(added)}", _listed(heavy)])
    titles = ["", "modules", "its own", "others that anyio and pydantic do not import", "heavy ones of these"]
    return (
        f"{markdown(titles, rows)}\n"
        f"Heavy ones that anyio and pydantic import: {_listed([name for name in HEAVY if name in modules[BELOW]])}.\n"
        f"Others that were looked for: {_listed([name for name in HEAVY if name not in modules[BELOW]])}.\n"
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
