"""The mutants themselves: which there are of a function, and that the list of the known ones is up to date."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))

from tests.mutants.__main__ import MODULES, TESTS, known_survivors  # noqa: E402
from tests.mutants.operators import mutants_of  # noqa: E402

EXAMPLE = '''
"""A module."""
LIMIT = 5

class Log:
    def read(self, most: int = 3) -> int:
        """Return how many."""
        if most < 1 and not self.at:
            return 0
        self.at += most
        return min(self.at, 7)
'''


def test_each_expression_of_a_function_is_changed_once_for_each_operator() -> None:
    found = [(mutant.function, mutant.line, mutant.after) for mutant in mutants_of("example.py", EXAMPLE)]
    assert found == [("Log.read", line, after) for line, after in [
        (8, "if most < 1 or not self.at:"),
        (8, "if most <= 1 and (not self.at):"),
        (8, "if most < 2 and (not self.at):"),
        (8, "if most < 0 and (not self.at):"),
        (8, "if most < 1 and self.at:"),
        (9, "return 1"),
        (9, "return -1"),
        (10, "self.at -= most"),
        (10, "pass"),
        (11, "return max(self.at, 7)"),
        (11, "return min(self.at, 8)"),
        (11, "return min(self.at, 6)"),
    ]]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_each_known_survivor_is_still_a_mutant_and_has_a_reason(module: str) -> None:
    mutants = {mutant.key for mutant in mutants_of(module, (ROOT / module).read_text())}
    known = {key: reason for key, reason in known_survivors().items() if key[0] == module}
    assert known.keys() <= mutants
    assert all(known.values())


@pytest.mark.parametrize("path", [*MODULES, *TESTS])
def test_each_module_and_test_of_a_mutation_run_is_there(path: str) -> None:
    assert (ROOT / path).is_file()
