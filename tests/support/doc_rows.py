"""What the code says, as the rows of tables: its flags, limits, codes, frames, events, log lines, modules and so on."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import typing
from pathlib import Path
from typing import Any

from layers import MAY_IMPORT, PACKAGE, VOCABULARY
from pages import ROOT

import chatapi
from chatapi import DISCONNECTS, Client, Limits, RefusalCode, Room, addresses, limits
from chatapi.brokers.redis.broker import KEEP, RedisBroker
from chatapi.brokers.sqlite import Keep, SQLiteBroker, database
from chatapi.cli import client, lines, server, store
from chatapi.core import hub
from chatapi.core.handshake import Handshake, Resume
from chatapi.core.hooks import Hooks
from chatapi.errors import FrameError
from chatapi.protocol.json import frames
from chatapi.protocol.text import commands
from chatapi.server import log_limit
from chatapi.testing.conformance import __main__ as conformance

Row = dict[str, str]
"""The cells of a row that the code knows, by the words of the heading."""


def spoken(number: float) -> str:
    return f"{number:,}" if isinstance(number, int) else f"{number:,g}"


def code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words)


# Flags and limits


ENDS = ("version", "help")
"""The flags that only print something: the last ones, and without a variable or a default."""


def flags(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Every flag, in its spelling with one dash."""
    actions = sorted(parser._actions, key=lambda action: ENDS.index(action.dest) if action.dest in ENDS else -1)
    return {name: action for action in actions for name in action.option_strings if not name.startswith("--")}


SERVER, CLIENT = flags(server.build_parser()), flags(client.build_parser())
CONFORMANCE = flags(conformance.build_parser())


def spellings(action: argparse.Action) -> str:
    return code(*(name for name in action.option_strings if not name.startswith("--")))


def default_of(action: argparse.Action) -> str:
    if action.dest in ENDS:
        return ""
    if action.dest in ("server", "port"):  # parts of the address
        return addresses.DEFAULT_ADDRESS.split(":")[action.dest == "port"]
    if said := re.search(r"\(default ([^)]+)\)", action.help or ""):
        return said[1]
    return "off" if action.nargs in ("?", 0) else "none"


def variable_of(action: argparse.Action) -> str:
    return "" if action.dest in ENDS else code(server.environment_name(action.dest))


def server_flags() -> list[Row]:
    bounds = {f"keep_{name}": f", with `-redis` {spoken(getattr(KEEP, name))}" for name in Keep.model_fields}
    return [
        {
            "flag": spellings(action),
            "variable": variable_of(action),
            "default": default_of(action) + bounds.get(action.dest, ""),
        }
        for action in dict.fromkeys(SERVER.values())
        if action.dest not in Limits.model_fields
    ]


def client_flags() -> list[Row]:
    return [{"flag": spellings(action), "default": default_of(action)} for action in dict.fromkeys(CLIENT.values())]


def allowed(field: Any) -> str:
    least = greatest = ""
    for bound in field.metadata:
        if getattr(bound, "ge", None) is not None:
            least = spoken(bound.ge)
        if getattr(bound, "gt", None) is not None:
            least = f"above {spoken(bound.gt)}"
        if getattr(bound, "le", None) is not None:
            greatest = spoken(bound.le)
    if greatest:
        return f"{least} to {greatest}"
    return least if least.startswith("above") else f"{least} or more"


def every_limit() -> list[Row]:
    actions = {name: SERVER[f"-{name.replace('_', '-')}"] for name in Limits.model_fields}
    return [
        {
            "flag": spellings(actions[name]),
            "default": spoken(field.default),
            "allowed": allowed(field),
        }
        for name, field in Limits.model_fields.items()
    ]


def what_is_fixed() -> list[Row]:
    keepalive = addresses._KEEPALIVE
    [history] = [spec for spec in commands.TABLE if spec.name == "history"]
    values = {
        "characters in a name": limits.NAME_CHARS,
        "characters in a room's name": limits.ROOM_CHARS,
        "bytes in either with `-machat`, in place of these two": limits.MACHAT_NAME_BYTES,
        "bytes of a line with `-machat`, unless `-line-bytes` is given": limits.MACHAT_LINE_BYTES,
        "characters in the `id` of a message": frames.ID_CHARS,
        "names or rooms in one answer": limits.LISTED,
        "messages that `/history` shows without a number": int("".join(filter(str.isdigit, history.help))),
        "bytes taken from a socket at once": limits.READ_BYTES,
        "the same, before the member is in a room": limits.OPENING_READ_BYTES,
        "bytes of the log rendered for a socket at once, as they are sent; a quarter more if that is one run of lines, "
        "and more only if it is one message": limits.CHUNK_BYTES,
        "lines of one member handled as one run, at most": limits.LINES_AT_ONCE,
        "part of the log that one run takes, at most": f"1/{limits.RUN_SHARE}",
        "part of the log after which senders wait for the next fan-out": f"1/{limits.ROUND_SHARE}",
        "bytes counted for each log entry beside its text and name": limits.ENTRY_COST,
        "bytes counted for each session beside its ids": limits.SESSION_COST,
        "bytes counted for each id of a session beside the id": limits.ID_COST,
        "messages of the past that count as one line of the member that is shown them": limits.PAST_MESSAGES,
        "bytes of the past that count as one line, if that is more": limits.PAST_BYTES,
        "seconds between two checks of the deadlines": limits.TICK,
        "part of the log by which a member may lag before senders pause": f"1/{1 / limits.PAUSE_AT:g}",
        "part of the log below which they go on": f"1/{1 / limits.RESUME_AT:g}",
        "seconds until a dead peer is found by TCP": keepalive["TCP_KEEPIDLE"]
        + keepalive["TCP_KEEPINTVL"] * keepalive["TCP_KEEPCNT"],
        "refused connections beyond `-connections` that may be open, until the next ones are just closed": hub.TOLD,
        "lines of the log that wait if nobody reads it": lines._MAX_WAITING,
        "lines of one kind that are logged at once": log_limit.BURST,
        "lines of one kind that are logged in a second after that": log_limit.RATE,
    }
    return [
        {"what": what, "value": value if isinstance(value, str) else spoken(value)} for what, value in values.items()
    ]


def fields_of_keep() -> list[Row]:
    return [{"field": code(name), "default": spoken(field.default)} for name, field in Keep.model_fields.items()]


def sub_commands() -> list[Row]:
    return [
        {
            "sub-command": code(
                " ".join(
                    [
                        word,
                        *(
                            f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar)
                            for action in store.build_parser(word)._actions
                            if not action.option_strings
                        ),
                    ]
                )
            )
        }
        for word in store.COMMANDS
    ]


def ways_to_sync() -> list[Row]:
    annotation = str(inspect.signature(SQLiteBroker).parameters["sync"].annotation)
    return [{"`-store-sync`": word} for word in re.findall(r"'(\w+)'", annotation)]


def times_of_redis() -> list[Row]:
    given = {name: parameter.default for name, parameter in inspect.signature(RedisBroker).parameters.items()}
    patience, lease = spoken(given["patience"]), spoken(given["lease"])
    times = [
        f"less than {patience} seconds",
        f"{patience} seconds",
        f"{spoken(round(given['lease'] * 0.7, 1))} seconds",
        f"{lease} seconds",
        "until it answers",
        "once it answers again",
    ]
    return [{"for": time} for time in times]


# The protocol


def fields_of_handshake() -> list[Row]:
    return [{"field": code(name)} for name in Handshake.model_fields]


def fields_of_resume() -> list[Row]:
    return [
        {"field of `resume`": code(name), "default": str(field.default) or "empty"}
        for name, field in Resume.model_fields.items()
    ]


def every_command() -> list[Row]:
    return [
        {
            "command": code(spec.usage),
            "alias": code(*(f"/{alias}" for alias in spec.aliases), *(["@NAME TEXT"] if spec.name == "msg" else [])),
        }
        for spec in commands.TABLE
    ]


def refusals() -> list[Row]:
    return [{"code": code(word)} for word in RefusalCode]


def frame_errors() -> list[Row]:
    return [{"code": code(word)} for word in FrameError]


def used_by_the_server() -> set[str]:
    """The disconnect codes that stand as strings in the code, outside the table and the list of commands."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.name not in ("errors.py", "commands.py") and path.relative_to(PACKAGE).parts[0] not in (
            "client",
            "testing",
        ):
            found |= {
                node.value
                for node in ast.walk(parsed(path))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    for path in PACKAGE.rglob("*.lua"):
        found |= set(re.findall(r"'(\w+)'", path.read_text(encoding="utf-8")))
    return found & set(DISCONNECTS)


def disconnects() -> list[Row]:
    used = used_by_the_server()
    return [
        {
            "code": code(reason.code),
            "detail": reason.detail,
            "reconnect": "yes" if reason.reconnect else "no",
            "after": f"{reason.after:g}",
            "today": "server" if reason.code in used else "program",
        }
        for reason in DISCONNECTS.values()
    ]


def reasons_for_a_gap() -> list[Row]:
    reasons = re.findall(r'"(\w+)"', inspect.getsource(chatapi.core.room.Room.recover))
    return [{"reason": code(word)} for word in dict.fromkeys(reasons)]


def frames_from_the_client() -> list[Row]:
    models = {model.model_fields["type"].annotation.__args__[0]: model for model in frames.Frame.__args__}  # type: ignore[attr-defined]
    return [
        {
            "from the client": code(kind),
            "fields": code(*(name for name in models[kind].model_fields if name != "type")),
        }
        for kind in frames.TYPES
    ]


def frames_from_the_server() -> list[Row]:
    made = {"message": None, "members": None, "rooms": None}  # put together by hand, and two made by one function
    for path in (*(PACKAGE / "protocol").rglob("*.py"), *(PACKAGE / "server").rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) == "frame"
                and isinstance(node.args[0], ast.Constant)
            ):
                made[node.args[0].value] = None
    return [{"from the server": code(kind)} for kind in made]


# The library


def events_of(union: Any, without: tuple[type, ...] = ()) -> list[Row]:
    return [
        {"event": code(event.__name__), "fields": code(*event.__match_args__)}
        for event in typing.get_args(union)
        if event not in without
    ]


def arguments_of_connect() -> list[Row]:
    _, *parameters = inspect.signature(chatapi.connect).parameters.values()
    return [
        {
            "argument": code(parameter.name),
            "default": "required"
            if parameter.default is parameter.empty
            else str(parameter.default)
            if isinstance(parameter.default, bool | None)
            else spoken(parameter.default),
        }
        for parameter in parameters
    ]


def calls_of_a_connection() -> list[Row]:
    calls = [name for name, member in vars(chatapi.Connection).items() if inspect.iscoroutinefunction(member)]
    return [{"call": name} for name in calls if not name.startswith("_")]


def hooks() -> list[Row]:
    return [{"hook": code(name)} for name in Hooks.__dataclass_fields__]


def views() -> list[Row]:
    return [
        {"name": code(view.__name__), "has": code(*(name for name in vars(view) if not name.startswith("_")))}
        for view in (Client, Room)
    ]


def examples() -> list[Row]:
    return [{"program": code(f"examples/{path.name}")} for path in sorted((ROOT / "examples").glob("*.py"))]


def samples() -> list[Row]:
    return [
        {"sample": code(f"examples/clients/{path.name}")} for path in sorted((ROOT / "examples" / "clients").iterdir())
    ]


def cases() -> list[Row]:
    return [{"case": code(case.name), "what a client must do": case.rule} for case in conformance.CASES]


# What a server writes


def parsed(path: Path) -> ast.Module:
    return TREES[path] if path in TREES else TREES.setdefault(path, ast.parse(path.read_text(encoding="utf-8")))


TREES: dict[Path, ast.Module] = {}


def log_lines() -> list[Row]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and (
                call := re.fullmatch(r"_?logger\.(?!\w+Filter)(\w+)", ast.unparse(node.func))
            ):
                text = ast.literal_eval(node.args[0]).replace("%d", "%s")
                found.append({"message": code(text), "level": call[1].replace("exception", "error")})
    return found


def errors_of_the_store() -> list[Row]:
    """What a store says that cannot be used."""
    found = [f"%s: {reason}" for reason in database._PLAIN.values()]
    for node in ast.walk(parsed(PACKAGE / "brokers" / "sqlite" / "database.py")):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "StoreError":
            [text] = node.args
            assert isinstance(text, ast.JoinedStr)
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "%s" for part in text.values))
    texts = [text.replace("`", "") for text in found if "is not open" not in text and text != "%s: %s"]
    return [{"error": code(text)} for text in dict.fromkeys(texts)]


# The code


def folders() -> list[Row]:
    names = {
        "vocabulary": f"vocabulary: the modules {code(*sorted(VOCABULARY))}",
        "chat": "`chat`, `bots`, `doors`, `past`",
    }
    return [
        {
            "folder": names.get(folder, code(folder)),
            "may import": ", ".join(
                name if name == "vocabulary" else code(name) for name in MAY_IMPORT if name in theirs - {"package"}
            )
            or "nothing",
        }
        for folder, theirs in MAY_IMPORT.items()
    ]


def modules() -> list[Row]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        if path.name != "__init__.py":
            first = (ast.get_docstring(parsed(path)) or "").partition("\n\n")[0]
            meaning = " ".join(first.split()).replace("``", "`")
            found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = meaning
    return [
        {"module": code(name), "what it is": found[name]}
        for name in sorted(found, key=lambda name: ("." in name, name))
    ]
