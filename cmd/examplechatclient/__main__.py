"""The example client: ``python cmd/examplechatclient -client Mina -room dev``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # works from any folder, installed or not

from chatapi.cli.client import main

if __name__ == "__main__":
    sys.exit(main())
