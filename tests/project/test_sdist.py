"""The source distribution: what belongs into it, and nothing that lies about in a checkout."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath

import pytest

import chatapi

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".dockerignore", ".gitignore", "CHANGELOG.md", "CONTRIBUTING.md", "Dockerfile", "LICENSE", "PKG-INFO", "README.md",
    "SECURITY.md", "compose.yaml", "gotcpchat.py", "mkdocs.yml", "pyproject.toml",
}  # fmt: skip
KINDS = {
    ".ci": {".py"},
    "bench": {".py", ".c", ".h"},
    "chatapi": {".py", ".lua", ".typed"},
    "cmd": {".py"},
    "docs": {".css", ".json", ".md", ".png"},
    "examples": {".py", ".mjs", ".go", ".sh"},
    "tests": {".py", ".c", ".md", ".toml"},
}
"""What kinds of files each folder holds."""


def hatchling(folder: Path) -> dict[str, str]:
    """An environment in which hatchling can be imported; it is installed into the folder if it is not there."""
    if importlib.util.find_spec("hatchling"):
        return {**os.environ}
    command = ["-m", "pip", "install", "-q", "--timeout=5", "--retries=0", "--target", str(folder), "hatchling>=1.26"]
    if subprocess.run([sys.executable, *command], capture_output=True, check=False).returncode:
        pytest.skip("hatchling is not installed here and cannot be downloaded; `pip install hatchling`")
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> set[PurePosixPath]:
    """The files of a source distribution that is built from a checkout in which other files lie about."""
    environment = hatchling(tmp_path_factory.mktemp("hatchling"))
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for name in (*FILES, *KINDS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif name != "PKG-INFO":
            shutil.copy(ROOT / name, source / name)
    (source / "chatapi" / "__pycache__").mkdir()
    for name in ("-", "chat.db", "notes.txt", "chatapi/__pycache__/chat.cpython-311.pyc"):
        (source / name).write_text("this is here by mistake\n")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(out)]
    built = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    with tarfile.open(out / f"machat-{chatapi.__version__}.tar.gz") as archive:
        return {PurePosixPath(name).relative_to(f"machat-{chatapi.__version__}") for name in archive.getnames()}


def test_the_sdist_holds_the_files_and_folders_that_belong_there_and_no_others(contents: set[PurePosixPath]) -> None:
    assert {str(path) for path in contents if len(path.parts) == 1} == FILES
    assert {path.parts[0] for path in contents if len(path.parts) > 1} == KINDS.keys()


def test_each_folder_of_the_sdist_is_whole_and_holds_only_its_kinds_of_files(contents: set[PurePosixPath]) -> None:
    for folder, kinds in KINDS.items():
        found = {path for path in contents if path.parts[0] == folder}
        assert {path.suffix for path in found} <= kinds, folder
        there = {PurePosixPath(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.suffix in kinds}
        assert {path for path in found if "__pycache__" not in path.parts} == there, folder
