"""What is built from the checkout: the wheel, and the files for Docker."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import chatapi
from chatapi import Limits
from chatapi.addresses import parse_address
from chatapi.cli import server

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


# The wheel


def copy_what_docker_sees(to: Path) -> None:
    """Copy what .dockerignore lets through: everything is shut out but the names behind an exclamation mark."""
    patterns = [
        line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
    ]
    assert patterns[0] == "*"
    assert patterns[-1] == "**/__pycache__"
    for pattern in patterns[1:-1]:
        path = ROOT / pattern.removeprefix("!")
        if path.is_dir():
            shutil.copytree(path, to / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, to)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from nothing but what a Docker build would see."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    copy_what_docker_sees(source)
    if importlib.util.find_spec("hatchling"):
        command = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    elif importlib.util.find_spec("pip"):
        command = ["-m", "pip", "wheel", "--no-deps", "--timeout=5", "--retries=0", "-w", str(out), "."]
    else:
        pytest.skip("neither hatchling nor pip is installed here; `pip install hatchling`")
    built = subprocess.run([sys.executable, *command], cwd=source, capture_output=True, text=True, check=False)
    if "pip" in command and "No matching distribution found for hatchling" in built.stdout + built.stderr:
        pytest.skip("hatchling is not installed here and cannot be downloaded; `pip install hatchling`")
    assert built.returncode == 0, built.stdout + built.stderr
    [path] = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(contents: set[str]) -> None:
    info = f"machat-{chatapi.__version__}.dist-info"
    assert {name.partition("/")[0] for name in contents} == {"chatapi", "gotcpchat.py", info}
    modules = {str(path.relative_to(ROOT)) for kind in ("py", "lua") for path in (ROOT / "chatapi").rglob(f"*.{kind}")}
    assert {name for name in contents if name.startswith("chatapi/")} == modules | {"chatapi/py.typed"}
    assert f"{info}/licenses/LICENSE" in contents


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"machat-{chatapi.__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    assert f"\nVersion: {chatapi.__version__}\n" in metadata
    assert f"\nRequires-Python: {PROJECT['requires-python']}\n" in metadata
    required = re.findall(r"^Requires-Dist: (\w+)[^;\n]*$", metadata, re.MULTILINE)
    assert required == ["anyio", "pydantic"]
    assert scripts.split("\n\n")[0].splitlines() == [
        "[console_scripts]",
        *(f"{name} = {target}" for name, target in sorted(PROJECT["scripts"].items())),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("script", PROJECT["scripts"])
def test_the_scripts_run_from_the_wheel_alone(script: str, wheel: Path, tmp_path: Path) -> None:
    module, _, function = PROJECT["scripts"][script].partition(":")
    program = (
        f"import sys; sys.path.insert(0, {str(wheel)!r}); import {module} as m, gotcpchat; "
        f"assert {str(wheel)!r} in m.__file__ and {str(wheel)!r} in gotcpchat.__file__; m.{function}(['-version'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{script} {chatapi.__version__}\n"), done.stderr


# Docker


def instructions(word: str) -> list[str]:
    return re.findall(rf"^ *{word} +(.*)$", DOCKERFILE, re.MULTILINE)


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())


def health_check() -> list[str]:
    """The arguments of the health check's Python."""
    [line] = instructions("HEALTHCHECK")
    command: list[str] = json.loads(line.partition("CMD ")[2])
    assert command[0] == "/opt/machat/bin/python"
    return command[1:]


def test_the_image_runs_the_server_itself_and_not_as_root() -> None:
    [entry] = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["/opt/machat/bin/chatserver"]  # without a shell, which would keep SIGTERM to itself
    assert instructions("CMD") == []
    [user] = instructions("USER")
    assert int(user.partition(":")[0]) > 0


def test_the_image_listens_on_all_addresses_where_it_says() -> None:
    variables = {server.environment_name(action.dest) for action in server.build_parser()._actions}
    assert set(environment()) <= variables
    listening = [parse_address(environment()[name]) for name in ("MACHAT_ADDRESS", "MACHAT_TELNET")]
    [exposed] = instructions("EXPOSE")
    assert [(where.host, str(where.port)) for where in listening] == [("", port) for port in exposed.split()]


@pytest.mark.slow
def test_the_health_check_tells_a_server_from_none() -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MACHAT_")}

    def check(port: str) -> int:
        arguments = [sys.executable, *health_check()]
        given = {**variables, "MACHAT_ADDRESS": f":{port}"}
        return subprocess.run(arguments, env=given, stderr=subprocess.DEVNULL, timeout=60, check=False).returncode

    with subprocess.Popen(
        [sys.executable, ROOT / "cmd" / "chatserver", "-a", "localhost:0", "-no-commands"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=variables,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = process.stdout.readline().rpartition(":")[2].strip()
        try:
            assert check(port) == 0
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert check(port) != 0


COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")


def service(name: str) -> str:
    """What stands in compose.yaml under a service's name."""
    [text] = re.findall(rf"^  {name}:.*\n((?:   .*\n|\n)+)", COMPOSE, re.MULTILINE)
    return str(text)


def published(name: str) -> list[str]:
    return re.findall(r'^ +- "([\d:]+)"$', service(name), re.MULTILINE)


def test_compose_publishes_what_the_image_exposes() -> None:
    [exposed] = instructions("EXPOSE")
    assert published("chat") == [f"{port}:{port}" for port in exposed.split()]


def test_a_profile_of_compose_has_two_servers_and_the_redis_that_they_share() -> None:
    [inside, _] = instructions("EXPOSE")[0].split()
    assert [*published("one"), *published("two")] == [f"8989:{inside}", f"8990:{inside}"]
    assert "<<: *shared" in service("two")
    assert "MACHAT_REDIS: redis://redis:6379/0\n" in service("one")
    assert "MACHAT_STORE" not in service("one")
    assert "redis:\n        condition: service_healthy\n" in service("one")
    assert published("redis") == []
    for name, profiles in (("chat", 0), ("one", 1), ("redis", 1)):
        assert service(name).count("profiles:\n      - redis\n") == profiles
    page = (ROOT / "docs" / "how-to" / "run.md").read_text(encoding="utf-8")
    assert "$ docker compose --profile redis up one two\n" in page


def test_the_image_has_the_extras_of_a_server() -> None:
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert extras.split(",") == ["fast", "redis"]
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])


def test_compose_leaves_time_to_drain() -> None:
    [seconds] = re.findall(r"^ +stop_grace_period: (\d+)s$", COMPOSE, re.MULTILINE)
    assert int(seconds) > Limits().drain


def test_compose_gives_a_descriptor_to_every_connection() -> None:
    [descriptors] = re.findall(r"^ +nofile: (\d+)$", COMPOSE, re.MULTILINE)
    assert int(descriptors) > Limits().connections


# What is imported


def test_every_public_name_can_be_had_and_is_listed() -> None:
    assert [name for name in chatapi.__all__ if getattr(chatapi, name) is None] == []
    assert set(chatapi.__all__) <= set(dir(chatapi))


def test_a_name_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError, match="'chatapi' has no attribute 'conect'"):
        chatapi.conect  # type: ignore[attr-defined]  # noqa: B018


def test_a_type_checker_sees_no_module_that_has_every_name() -> None:
    module = ast.parse((ROOT / "chatapi" / "__init__.py").read_text())
    assert "__getattr__" not in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "not_used"),
    [
        ("import chatapi", "chatapi.core.hub chatapi.client.connection sqlite3 asyncio"),
        ("from chatapi import ChatAPI", "chatapi.client.connection sqlite3 asyncio"),
        ("from chatapi import connect, connect_sync", "chatapi.core.hub sqlite3 asyncio"),
        ("import chatapi.cli.server", "chatapi.client.connection chatapi.cli.store sqlite3 coredis"),
        ("import chatapi.cli.client", "chatapi.core.hub sqlite3"),
        ("import chatapi.brokers.sqlite", "chatapi.client.connection coredis"),
        ("import chatapi.brokers.redis", "chatapi.client.connection sqlite3"),
    ],
)
def test_nothing_is_imported_that_is_not_used(statement: str, not_used: str) -> None:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert statement.split()[1] in modules
    assert not modules & set(not_used.split())
