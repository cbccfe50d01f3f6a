"""The chat server: ``python cmd/chatserver -a localhost:8989``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from any folder, installed or not

from chatapi.cli.server import main

if __name__ == "__main__":
    sys.exit(main())
