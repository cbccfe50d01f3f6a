"""What the release workflow checks before it publishes a tag."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / ".ci" / "release.py"
CHANGELOG = """# Changelog

## [0.3.0] - unreleased

- To come.

## [0.2.0] - 2026-05-04

### Added

- A door.

## [0.1.0] - 2026-01-02

- The first version.
"""


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project(root: Path, version: str, owner: str = "somebody") -> Path:
    (root / "chatapi").mkdir()
    (root / "chatapi" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (root / "pyproject.toml").write_text(f'[project.urls]\nHomepage = "https://github.com/{owner}/machat"\n')
    (root / "CHANGELOG.md").write_text(CHANGELOG)
    return root


def test_the_notes_are_the_section_of_the_version(release: ModuleType, tmp_path: Path) -> None:
    assert release.release_notes("v0.2.0", project(tmp_path, "0.2.0")) == "### Added\n\n- A door.\n"


@pytest.mark.parametrize(
    ("tag", "version", "owner", "reason"),
    [
        ("v0.1.0", "0.2.0", "somebody", "does not match"),
        ("0.2.0", "0.2.0", "somebody", "does not match"),
        ("v0.3.0", "0.3.0", "somebody", "has no date: .0.3.0. - unreleased"),
        ("v0.4.0", "0.4.0", "somebody", "no section for 0.4.0"),
        ("v0.2.0", "0.2.0", "OWNER", "placeholder OWNER"),
    ],
)
def test_a_version_that_is_not_ready_is_not_released(
    release: ModuleType, tmp_path: Path, tag: str, version: str, owner: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        release.release_notes(tag, project(tmp_path, version, owner))
