"""Check that a tag may be released, and print its section of the changelog: python .ci/release.py v0.1.0"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def release_notes(tag: str, root: Path = ROOT) -> str:
    """Return the text below the changelog's heading of this version. Raise `ValueError` if it cannot be released."""
    code = (root / "chatapi" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', code, re.MULTILINE)
    if version is None or tag != f"v{version[1]}":
        raise ValueError(f"the tag {tag} does not match chatapi.__version__, {version and version[1]}")
    if "github.com/OWNER" in (root / "pyproject.toml").read_text(encoding="utf-8"):
        raise ValueError("[project.urls] in pyproject.toml still has the placeholder OWNER")
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]:
        heading, _, text = section.partition("\n")
        if heading.startswith(f"[{version[1]}]"):
            if not re.fullmatch(r"\[.+\] - \d{4}-\d\d-\d\d", heading):
                raise ValueError(f"the changelog's heading has no date: {heading}")
            return text.strip() + "\n"
    raise ValueError(f"the changelog has no section for {version[1]}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        sys.stdout.write(release_notes(sys.argv[1]))
    except ValueError as error:
        sys.exit(f"not released: {error}")
