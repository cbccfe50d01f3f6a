"""The chat server: ``python cmd/chatserver -a localhost:8989``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from any folder, installed or not

try:
    from chatapi.cli.server import main
except ModuleNotFoundError as error:
    sys.exit(f"chatserver: {error}; install the project first, as its README says")

if __name__ == "__main__":
    sys.exit(main())
