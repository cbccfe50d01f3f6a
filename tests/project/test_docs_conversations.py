"""The conversations in the documentation, played against the server's own code."""

from __future__ import annotations

import re
from pathlib import Path

import anyio
import pytest
from conversations import Conversation
from pages import PAGES, Block, blocks

PROTOCOL = [PAGES[f"docs/reference/{name}.md"] for name in ("protocol", "protocol-json", "codes")]


@pytest.mark.parametrize("block", blocks("chat"), ids=str)
def test_conversations(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    anyio.run(Conversation().play, block.body)


def test_every_section_about_the_protocol_has_a_conversation() -> None:
    sections = [section for page in PROTOCOL for section in re.split("^## ", page.text, flags=re.MULTILINE)[1:]]
    assert [section.splitlines()[0] for section in sections if "```chat\n" not in section] == []


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ('A> {"name": "a", "room": "r", "echo": true}\nA> hi\n', "not in the example"),
        ('A> {"name": "a", "room": "r", "echo": true}\nA> hi\nA< a:ho\n', "a:ho"),
        ('A> {"name": "a", "room": "r"}\nA> hi\nA< a:hi\n', "a:hi"),
        ('A> {"name": "a", "room": "r"}\nA< (end)\n', "ended"),
        ('A> {"name": "a", "room": "r"}\nB> {"name": "A", "room": "r"}\nB< {"type":"error","code":"…"}\n', "…"),
        ('A> {"name": "a", "room": "r"}\nB> {"name": "…", "room": "r"}\n', "'B'"),
        ("(A yawns)\n", "not understood"),
        (
            '(a server with -echo)\nA> {"name": "a", "room": "r"}\nA> hi\n(the server is killed and started again)\n'
            'A> {"name": "a", "room": "r", "history": 1}\nA< a:hi\n',
            "a:hi",
        ),
        ('(a server with -store c.db)\nA> {"name": "a", "room": "r"}\n(the disk is full)\nA> hi\n', "not kept"),
    ],
)
def test_a_conversation_that_is_not_true_fails(
    script: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((AssertionError, KeyError, pytest.fail.Exception), match=why):
        anyio.run(Conversation().play, script)
