"""The tutorials, from an empty folder to the end: every command, every program, and what they show."""

from __future__ import annotations

import importlib.util
import shutil
import socket
from pathlib import Path

import pytest
from pages import PAGES
from tutorials import Tutorial, is_like

needs_web = pytest.mark.skipif(
    not (importlib.util.find_spec("starlette") and importlib.util.find_spec("uvicorn") and shutil.which("curl")),
    reason="needs '.[examples]' and curl",
)
TUTORIALS = ["first-chat", "first-bot", pytest.param("first-web-app", marks=needs_web)]
needs_nc = pytest.mark.skipif(shutil.which("nc") is None, reason="needs nc")


@pytest.fixture
def ports() -> dict[str, int]:
    """A free port in place of each that the tutorials use."""
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        return {"8989": first.getsockname()[1], "8000": second.getsockname()[1]}


def test_every_tutorial_is_played() -> None:
    names = [name if isinstance(name, str) else name.values[0] for name in TUTORIALS]
    assert {f"docs/tutorials/{name}.md" for name in names} == {page for page in PAGES if "/tutorials/" in page}


@needs_nc
@pytest.mark.slow
@pytest.mark.parametrize("name", TUTORIALS)
def test_tutorials(name: str, ports: dict[str, int], tmp_path: Path) -> None:
    Tutorial(PAGES[f"docs/tutorials/{name}.md"], tmp_path, ports).play()


@needs_nc
@pytest.mark.long
@pytest.mark.parametrize("name", ["first-chat", "first-bot", "first-web-app"])
def test_tutorials_with_everything_that_they_install(name: str, ports: dict[str, int], tmp_path: Path) -> None:
    Tutorial(PAGES[f"docs/tutorials/{name}.md"], tmp_path, ports, installs=True).play()


def test_what_a_page_shows_may_leave_parts_out() -> None:
    assert is_like('{"seq":1,"ts":…}', '{"seq":1,"ts":5}')
    assert not is_like('{"seq":1,"ts":…}', '{"seq":2,"ts":5}')
