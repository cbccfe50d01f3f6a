"""Change the core's arithmetic in one place at a time, and look whether a test fails: ``python -m tests.mutants``.

pytest collects the tests once; each mutant is a fork of that process in which the code of the changed functions is
replaced, so no file is written. A mutant runs the tests that run its line, until one fails. `survivors.toml` lists the
mutants that no test can tell from the original, with the reason; they are not run. Any other survivor is an error.
"""

from __future__ import annotations

import argparse
import gc
import os
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple, TypeAlias

import pytest

from .operators import Mutant, mutants_of

MODULES = [
    "chatapi/core/log.py",
    "chatapi/core/room_log.py",
    "chatapi/core/entries.py",
    "chatapi/core/history.py",
    "chatapi/core/flow_control.py",
    "chatapi/core/remembered.py",
    "chatapi/core/readers.py",
    "chatapi/core/sorted_keys.py",
    "chatapi/core/timers.py",
    "chatapi/protocol/framing.py",
    "chatapi/server/rate_limit.py",
    "chatapi/server/send_buffer.py",
]
TESTS = [
    "tests/core/test_backpressure.py",
    "tests/core/test_between_slices.py",
    "tests/core/test_flow_control.py",
    "tests/core/test_history_pages.py",
    "tests/core/test_log.py",
    "tests/core/test_log_numbers.py",
    "tests/core/test_room_log.py",
    "tests/core/test_sorted_keys.py",
    "tests/core/test_timers.py",
    "tests/limits/test_rate_limit.py",
    "tests/protocol/test_framing.py",
    "tests/protocol/test_receive_buffer.py",
    "tests/server/test_send_buffer.py",
]
"""The quick tests of these modules; a mutant runs those of them that run its line."""
SURVIVORS = Path(__file__).with_name("survivors.toml")
QUICK = 8
"""With `--quick`, one mutant of so many is run."""
MOST_SECONDS = 20
"""A mutant runs the quickest of the tests that run its line, those that take so long together."""
MEMORY = 4 << 30
Functions: TypeAlias = dict[tuple[str, str, int], list[FunctionType]]
KILLED, TIMED_OUT, SURVIVED, IMPOSSIBLE = "killed", "timed out", "SURVIVED", "impossible"


class Coverage(NamedTuple):
    """What the tests do without a mutant."""

    seconds: list[float]
    """The processor time of each test."""
    limits: list[float]
    """The seconds after which each test has hung."""
    lines: dict[str, dict[int, set[int]]]
    """By module and line, the tests that run it."""
    failed: list[str]


class Mutation:
    """A pytest plugin that runs the tests for each mutant instead of once."""

    def __init__(self, args: argparse.Namespace, mutants: list[Mutant]) -> None:
        self.args = args
        self.mutants = mutants
        self.results: list[tuple[Mutant, str]] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> None:
        """Have Hypothesis try the same examples for each mutant, and not look for the smallest that fails."""
        from hypothesis import Phase, settings  # here, because pytest rewrites it first

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("mutants", settings.default, derandomize=True, database=None, phases=phases)
        settings.load_profile("mutants")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the tests once to see which lines each of them runs, and then the mutants."""
        items, scratch = session.items, Path(tempfile.mkdtemp(prefix="mutants-"))
        running: dict[int, tuple[int, Path]] = {}
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        say(f"{len(items)} tests run without a mutant …")
        try:
            first = scratch / "first"
            child = fork(first, partial(_trace, session, items, first))
            running[child] = -1, first
            os.waitpid(child, 0)
            del running[child]
            covered: Coverage = pickle.loads((first / "result").read_bytes())
            if covered.failed:
                raise pytest.UsageError(f"fail without a mutant: {', '.join(covered.failed)}")
            say(f"they took {sum(covered.seconds):.0f} s of processor time; {len(self.mutants)} mutants …")
            self._run(session, covered, scratch, running)
        finally:
            for pid in running:
                os.killpg(pid, signal.SIGKILL)
            for pid in running:
                os.waitpid(pid, 0)
            shutil.rmtree(scratch, ignore_errors=True)
        return True

    def _run(
        self, session: pytest.Session, covered: Coverage, scratch: Path, running: dict[int, tuple[int, Path]]
    ) -> None:
        functions = _functions({str(Path(module).resolve()) for module in MODULES})
        killers: dict[str, Counter[int]] = defaultdict(Counter)  # by function: what has killed is tried first
        results: dict[int, str] = {}
        waiting, begun = iter(enumerate(self.mutants)), time.monotonic()
        while len(results) < len(self.mutants):
            for number, mutant in waiting:
                tests = _choose(mutant, covered, killers[mutant.function])
                here = scratch / str(number)
                child = fork(here, partial(_test, session, mutant, functions, tests, covered, here))
                running[child] = number, here
                if len(running) == self.args.jobs:
                    break
            pid, status = os.wait()
            number, here = running.pop(pid)
            mutant = self.mutants[number]
            results[number] = _outcome(mutant, status)
            if (here / "result").exists():
                killers[mutant.function][int((here / "result").read_text())] += 1
            shutil.rmtree(here, ignore_errors=True)
            if self.args.verbose:
                say(f"{mutant.describe()}\n    {results[number]}")
            if not len(results) % 25:
                left = (time.monotonic() - begun) / len(results) * (len(self.mutants) - len(results))
                say(f"{len(results)} of {len(self.mutants)} mutants, {left:.0f} s left")
        self.results = [(mutant, results[number]) for number, mutant in enumerate(self.mutants)]


def say(text: str) -> None:
    """Write a line of progress."""
    print(text, file=sys.__stderr__, flush=True)


def fork(scratch: Path, run: Callable[[], int]) -> int:
    """Run this in a child process with a directory and a process group of its own; return its pid."""
    scratch.mkdir()
    pid = os.fork()
    if pid:
        return pid
    status = 99
    try:
        os.setpgid(0, 0)
        os.environ["TMPDIR"] = os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.tempdir = str(scratch)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        status = run()
    finally:
        os._exit(status)


def _run_items(
    session: pytest.Session, items: list[pytest.Item], limits: list[float] | None = None
) -> Iterator[tuple[pytest.Item, bool]]:
    """Run these tests; yield each with whether it failed. With `limits`, the process ends if one takes longer."""
    for i, item in enumerate(items):
        failed = session.testsfailed
        if limits:
            signal.setitimer(signal.ITIMER_REAL, limits[i])
        item.ihook.pytest_runtest_protocol(item=item, nextitem=items[i + 1] if i + 1 < len(items) else None)
        yield item, session.testsfailed > failed


def _trace(session: pytest.Session, items: list[pytest.Item], scratch: Path) -> int:
    import coverage  # here, because `.[test]` does not have it

    trace = coverage.Coverage(data_file=None, config_file=False, include=MODULES)
    seconds, limits, failed = [], [], []
    trace.start()
    trace.switch_context("0")
    begun, used = time.monotonic(), time.process_time()
    for number, (item, has_failed) in enumerate(_run_items(session, items), 1):
        trace.switch_context(str(number))
        seconds.append(time.process_time() - used)
        limits.append(5 + 5 * (time.monotonic() - begun))
        begun, used = time.monotonic(), time.process_time()
        failed += [item.nodeid] * has_failed
    trace.stop()
    data = trace.get_data()
    lines = {
        str(Path(file).relative_to(Path.cwd())): {
            line: {int(test) for test in tests if test} for line, tests in data.contexts_by_lineno(file).items()
        }
        for file in data.measured_files()
    }
    (scratch / "result").write_bytes(pickle.dumps(Coverage(seconds, limits, lines, failed)))
    return 0


def _choose(mutant: Mutant, covered: Coverage, killers: Counter[int]) -> list[int]:
    by_line = covered.lines.get(mutant.module, {})
    for lines in mutant.lines:
        if tests := set[int]().union(*(by_line.get(line, ()) for line in lines)):
            break
    chosen, seconds = [], 0.0
    for test in sorted(tests, key=lambda test: (-killers[test], covered.seconds[test])):
        if chosen and seconds + covered.seconds[test] > MOST_SECONDS:
            break
        chosen.append(test)
        seconds += covered.seconds[test]
    return chosen


def _functions(files: set[str]) -> Functions:
    """Return the functions of these files by file, qualified name and line."""
    found = defaultdict(list)
    for function in gc.get_objects():
        if type(function) is FunctionType and function.__code__.co_filename in files:
            found[_place(function.__code__)].append(function)
    return found


def _place(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _test(
    session: pytest.Session, mutant: Mutant, functions: Functions, tests: list[int], covered: Coverage, here: Path
) -> int:
    """Put the mutant in the place of the original, and run these tests until one fails."""
    if not tests:
        return 0
    codes = [mutant.compile()]
    changed = 0
    while codes:
        code = codes.pop()
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        for function in functions.get(_place(code), ()):
            if function.__code__ != code:
                try:
                    function.__code__ = code
                except ValueError:  # it no longer uses a variable of the function around it, or `super`
                    return 2
                changed += 1
    assert changed
    limits = [covered.limits[test] for test in tests]
    for test, (_, failed) in zip(
        tests, _run_items(session, [session.items[test] for test in tests], limits), strict=True
    ):
        if failed:
            (here / "result").write_text(str(test))
            return 1
    return 0


def _outcome(mutant: Mutant, status: int) -> str:
    if os.WIFSIGNALED(status):
        return TIMED_OUT if os.WTERMSIG(status) == signal.SIGALRM else KILLED
    code = os.WEXITSTATUS(status)
    if code > 2:
        raise pytest.UsageError(f"the mutant could not be run:\n{mutant.describe()}")
    return (SURVIVED, KILLED, IMPOSSIBLE)[code]


def known_survivors() -> dict[tuple[str, str, str, str], str]:
    """Return the reasons of the mutants that no test can tell from the original."""
    return {
        (entry["module"], entry["function"], entry["before"], after): entry["reason"]
        for entry in tomllib.loads(SURVIVORS.read_text())["survivor"]
        for after in entry["after"]
    }


def main() -> int:
    """Run the mutants, and list those that survive."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", default=MODULES, help="only these of the modules")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="mutants at a time (2)")
    parser.add_argument("--quick", action="store_true", help=f"run one of {QUICK} mutants")
    parser.add_argument("--known", action="store_true", help="run the known survivors too")
    parser.add_argument(
        "--tests", nargs="+", default=TESTS, metavar="PATH", help="run these tests instead of those in `TESTS`"
    )
    parser.add_argument("--verbose", action="store_true", help="show each mutant")
    args = parser.parse_args()
    if others := set(args.modules) - set(MODULES):
        parser.error(f"not among the modules: {' '.join(sorted(others))}")

    known = known_survivors()
    mutants = [mutant for module in args.modules for mutant in mutants_of(module, Path(module).read_text())]
    gone = [key for key in known.keys() - {mutant.key for mutant in mutants} if key[0] in args.modules]
    run = [mutant for mutant in mutants if args.known or mutant.key not in known]
    mutation = Mutation(args, run[:: QUICK if args.quick else 1])
    options = ["-qq", "--tb=no", "--capture=sys", "-p", "no:cacheprovider", "-p", "no:xdist"]
    status = pytest.main([*options, *args.tests], plugins=[mutation])
    if status:
        return int(status)

    found = Counter(outcome for _, outcome in mutation.results)
    survivors = [mutant for mutant, outcome in mutation.results if outcome == SURVIVED]
    new = [mutant for mutant in survivors if mutant.key not in known]
    dead = [mutant for mutant, outcome in mutation.results if outcome != SURVIVED and mutant.key in known]
    for title, those in (
        ("No test fails with these mutants", [mutant.describe() for mutant in new]),
        ("A test fails with these known survivors: remove them from survivors.toml", [m.describe() for m in dead]),
        ("These known survivors are no mutants any more: remove them from survivors.toml", map(" | ".join, gone)),
    ):
        if those := list(those):
            say(f"\n{title}:\n" + "\n".join(those))
    say(
        f"\n{len(mutants)} mutants: {len(mutation.results)} run, {found[KILLED]} killed, {found[TIMED_OUT]} timed out, "
        f"{found[IMPOSSIBLE]} impossible, "
        f"{len(survivors)} survived ({len(survivors) - len(new)} of them known); "
        f"{len(mutants) - len(run)} known survivors not run"
    )
    return 1 if new or dead or gone else 0


if __name__ == "__main__":
    sys.exit(main())
