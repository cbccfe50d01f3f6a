"""The folders of the package, and what each of them may import."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "chatapi"

VOCABULARY = {"errors", "events", "limits", "clock", "addresses", "text", "tasks", "pending"}
"""Modules beside the folders that every folder may import."""

MAY_IMPORT = {
    "vocabulary": set(),
    "core": {"vocabulary"},
    "protocol": {"vocabulary", "core"},
    "server": {"vocabulary", "core", "protocol"},
    "client": {"vocabulary"},
    "brokers": {"vocabulary", "core"},
    "chat": {"vocabulary", "core", "protocol", "server", "brokers"},
    "testing": {"vocabulary", "core", "protocol", "server", "brokers"},
    "cli": {"vocabulary", "core", "brokers", "client", "chat", "package"},
}
"""What the modules of a folder may import besides their own. `bots`, `doors` and `past` belong to `chat`."""

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
)
"""Every module of the package, without its name."""
