"""The conformance run for clients in other languages: a correct client passes, and each fault fails the right case."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from selection import slow_except
from small_client import FAULTS

from chatapi.testing.conformance import lost_connections
from chatapi.testing.conformance.__main__ import CASES, check, main

SUPPORT = Path(__file__).parents[1] / "support"
BY_NAME = {case.name: case for case in CASES}
TIMEOUT = 60.0
SHORT = 5.0
"""Seconds for a client that is expected to do nothing: if it is only slow, it fails in the same way."""
QUICK = ("no protocol: handshake", "strip: sending", "new ids: ack-lost", "always return: stay-away")


def small(fault: str = "none") -> list[str]:
    return [sys.executable, "-I", str(SUPPORT / "small_client.py"), fault]


def test_a_fault_is_known_for_every_case() -> None:
    assert {case for _, case in FAULTS} == set(BY_NAME)


@pytest.mark.parametrize("name", slow_except(BY_NAME, "sending", "in-flight"))
def test_a_correct_client_passes(name: str) -> None:
    failed = check(BY_NAME[name], small(), TIMEOUT)
    assert failed is None, failed


@pytest.mark.parametrize("name", slow_except(BY_NAME, "cut-replay"))
def test_our_own_client_library_passes(name: str) -> None:
    failed = check(BY_NAME[name], [sys.executable, str(SUPPORT / "library_client.py")], TIMEOUT)
    assert failed is None, failed


@pytest.mark.parametrize("fault", slow_except([f"{fault}: {case}" for fault, case in FAULTS], *QUICK))
def test_a_client_with_a_fault_fails_the_case_about_it(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, _, name = fault.partition(": ")
    monkeypatch.setattr(lost_connections, "_DROPPING", TIMEOUT)  # until there are too many attempts
    failed = check(BY_NAME[name], small(fault), SHORT)
    assert failed is not None
    assert failed.expected
    assert failed.seen


def test_a_report_says_what_was_expected_and_what_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-only", "handshake,sending", "-timeout", "60", "--", *small("strip")]) == 1
    passed, failed, expected, seen, summary = capsys.readouterr().out.splitlines()
    assert passed == " 1/2  handshake  pass"
    assert failed == f" 2/2  sending    FAIL  {BY_NAME['sending'].rule}"
    assert expected == r'       expected: a message with the text "  /bye \"quoted\" back\\slash"'
    assert r'"text": "/bye \"quoted\" back\\slash"' in seen
    assert summary == "1 of 2 passed; failed: sending"


def test_the_exit_code_is_0_if_every_case_has_passed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "goodbye,handshake", "--timeout", "60", "--", *small()]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 of 2 passed"


def test_no_other_case_is_run_if_the_handshake_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-timeout", "60", "--", *small("no protocol")]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if "/" in line[:6]] == [lines[0]]
    assert lines[-1] == "The other cases need this one, so they were not run."


def test_a_client_that_ends_at_once_is_shown_with_its_exit_code_and_its_errors() -> None:
    crash = "import sys; sys.stderr.write('no such option: -x\\nusage: client\\n'); sys.exit(3)"
    failed = check(BY_NAME["handshake"], [sys.executable, "-c", crash], TIMEOUT)
    assert failed is not None
    assert failed.expected == "the client connects"
    assert failed.seen.startswith("no connection; the client has ended with exit code 3")


@pytest.mark.slow
def test_a_client_that_does_nothing_is_ended_even_if_a_script_has_started_it() -> None:
    """The run waits until nobody holds the client's output open."""
    failed = check(BY_NAME["handshake"], ["sh", "-c", "sleep 600 & echo waiting >&2; wait"], SHORT)
    assert failed is not None
    assert failed.seen == "no connection for 5 seconds; the client runs; its standard error: waiting"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "the command of the client is missing"),
        (["-only", "handshake,sleeping", "--", "true"], "no case is called 'sleeping'"),
        (["--", "/no/such/client"], "cannot start '/no/such/client': No such file or directory"),
    ],
)
def test_a_command_line_that_cannot_be_run_ends_with_code_2(
    arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_the_list_has_every_case_with_its_rule(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-list"]) == 0
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed == {case.name: case.rule for case in CASES}
