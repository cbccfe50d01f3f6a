"""Redis without a chat: what a line from node to node is compared with."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from . import machine
from .load import Protocol, Step
from .servers import ServerFailed

RATE: Final = 100
"""Lines a second."""
_CLIENT: Final = "bench/peers/coredis_client.py"
_SHA: Final = "098e0f0d1448c0a81dafe820f66d460eb09263da"
ROUND_TRIP: Final = Protocol(
    hello=(Step("SCRIPT LOAD 'return ARGV[1]'\r\n", wait=_SHA),),
    publish=lambda payload: f"*4\r\n$7\r\nEVALSHA\r\n$40\r\n{_SHA}\r\n$1\r\n0\r\n$%l\r\n%t\r\n",
    echo=True,
)
"""A script that gives back its argument, for the load generator: a member gets back what it says."""


def measure(port: int, seconds: float, say_on: int | None, hear_on: int | None) -> tuple[list[int], list[int]]:
    """Nanoseconds from PUBLISH until another process is told, and for a script's round trip, both with coredis."""
    command = [sys.executable, str(machine.ROOT / _CLIENT), str(port)]
    how = [str(seconds), str(RATE)]
    with machine.on_core(hear_on):
        hearing = subprocess.Popen([*command, "hear", *how], stdout=subprocess.PIPE)
    with hearing:
        try:
            assert hearing.stdout is not None
            hearing.stdout.readline()
            with machine.on_core(say_on):
                said = subprocess.run([*command, "say", *how], stdout=subprocess.PIPE, timeout=2 * seconds + 30)
            if said.returncode:
                raise ServerFailed("what publishes without a chat has failed")
            heard = hearing.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            raise ServerFailed("Redis did not pass on what was published") from None
        finally:
            hearing.kill()
    if hearing.returncode:
        raise ServerFailed("what hears without a chat has failed")
    return json.loads(heard), json.loads(said.stdout)
