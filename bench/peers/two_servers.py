"""One chat of two servers, and the Redis between them: `python -m bench.peers.two_servers PORT PORT FOLDER`."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

from .. import machine
from ..subjects import SUBJECTS


def main(*arguments: str) -> None:
    """Serve until the process ends; it leads the process group of all of them."""
    *ports, folder = arguments
    redis = machine.free_port()
    processes = [subprocess.Popen(SUBJECTS["redis"].prepare([redis], Path(folder)))]
    while processes[0].poll() is None:
        try:
            socket.create_connection(("127.0.0.1", redis)).close()
            break
        except OSError:
            time.sleep(0.01)
    for port in ports:
        command = SUBJECTS["machat"].prepare([int(port)], Path(folder))
        processes.append(subprocess.Popen([*command, "-redis", f"redis://127.0.0.1:{redis}/0"]))
    for process in processes:
        process.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
