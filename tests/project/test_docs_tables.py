"""The tables and the numbers in the documentation are those of the code."""

from __future__ import annotations

import inspect
import re
import shlex
from pathlib import Path

import doc_tables
import pytest
from anyio.from_thread import start_blocking_portal
from doc_rows import SERVER, default_of, log_lines, spoken
from doc_tables import TABLES, made, pages_with_tables, renewed
from executables import eventually
from pages import PAGES, ROOT, Page, blocks, plain, table
from redis_servers import RedisServer, needs_redis

import chatapi
from chatapi import Limits
from chatapi.brokers.redis.broker import RedisBroker
from chatapi.cli import server, store
from chatapi.client import event_queue, requests


@pytest.mark.parametrize("path", pages_with_tables(), ids=lambda path: path.name)
def test_the_tables_of_a_page_are_what_the_code_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    new, missing = renewed(str(path.relative_to(ROOT)), text)
    assert missing == []
    assert new == text, "run `python tests/support/doc_tables.py`"


def test_every_table_is_on_one_page() -> None:
    marked = [name for path in pages_with_tables() for name in re.findall("<!-- table: (.+) -->", path.read_text())]
    assert sorted(marked) == sorted(TABLES)


HOOKS = made("hooks", "page.md", "")[0]


def test_a_row_that_the_code_does_not_know_any_more_goes() -> None:
    before = HOOKS + "\n| `on_silence` | nothing | nothing | |"
    assert "on_silence" not in made("hooks", "page.md", before)[0]


def test_cells_written_by_hand_stay_with_their_row() -> None:
    lines = HOOKS.replace("| `on_message` | |", "| `on_message` | the text |").splitlines()
    after, _ = made("hooks", "page.md", "\n".join([*lines[:2], *reversed(lines[2:])]))
    assert after.splitlines()[3].startswith("| `on_message` | the text |")


def test_a_cell_that_somebody_has_to_write_is_named() -> None:
    _, missing = made("gaps", "page.md", "")
    assert "page.md: write the column 'when' for `trimmed`, in the table `gaps`" in missing


def test_a_log_line_is_found_by_its_text_and_keeps_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = log_lines()
    monkeypatch.setitem(TABLES, "log", doc_tables.Table(("message", "level"), lambda: lines, doc_tables.without_words))
    before = "| message | level |\n|---|---|\n| `NAME joined ROOM from ADDRESS` | shouted |"
    after, missing = made("log", "page.md", before)
    assert "| `NAME joined ROOM from ADDRESS` | info |" in after
    assert "page.md: write `refused %s: %s` in full, in the table `log`" in missing


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_a_number_with_the_name_of_a_limit_is_its_default(page: Page) -> None:
    for number, flag in re.findall(r"([\d,]*\d)(?: [a-z]+){0,3} \(`-([a-z-]+)`[;)]", page.prose):
        assert number == spoken(Limits.model_fields[flag.replace("-", "_")].default), flag


def test_numbers_stand_with_the_names_of_their_limits() -> None:
    pages = [PAGES[f"docs/reference/{name}.md"].prose for name in ("protocol", "protocol-json", "codes")]
    assert len(re.findall(r"\d(?: [a-z]+){0,3} \(`-[a-z-]+`[;)]", "".join(pages))) > 25


@pytest.mark.parametrize("page", PAGES.values(), ids=lambda page: page.name)
def test_every_table_of_flags_has_their_defaults(page: Page) -> None:
    for rows in page.tables():
        if rows and {"flag", "default"} < set(rows[0]) and rows[0]["flag"] != "`-client`":
            for row in rows:
                name = plain(row["flag"].partition(",")[0])
                assert row["default"].partition(", with")[0] == default_of(SERVER[name]), name


def test_the_sub_commands_are_those_that_the_server_knows() -> None:
    assert tuple(store.COMMANDS) == server.SUB_COMMANDS


def test_the_library_sends_again_for_as_long_as_the_server_remembers() -> None:
    assert requests.RESEND_WITHIN < Limits().remember == requests.REMEMBER == 5 * 60  # "five minutes", the pages say
    assert Limits().remember_ids == requests.REMEMBER_IDS
    assert requests.resend_within(Limits().remember) == requests.RESEND_WITHIN


def test_a_call_waits_behind_as_many_events_as_the_page_says() -> None:
    assert spoken(event_queue.EXTRA_EVENTS) in PAGES["docs/reference/client-library.md"].prose


def test_others_notice_a_dead_server_as_fast_as_it_says() -> None:
    lease = inspect.signature(RedisBroker).parameters["lease"].default
    said = [time for page in PAGES.values() for time in re.findall(r"dead server within (\d+) seconds", page.prose)]
    assert {*map(int, said)} == {lease}


@needs_redis
@pytest.mark.slow
def test_every_key_in_redis_is_in_the_table_and_the_rights_and_commands_there_work() -> None:
    [rights], [watching] = blocks("text", "user machat"), blocks("console", "$ redis-cli")
    with RedisServer() as redis, start_blocking_portal() as portal:
        redis.cli("ACL", "SETUSER", *rights.body.split()[1:])
        url = redis.url.replace("//", "//machat:PASSWORD@")
        chat = chatapi.ChatAPI(broker=RedisBroker(url, lease=1))
        _, [(_, address)] = portal.start_task(chat.serve, "127.0.0.1:0")
        with chatapi.connect_sync(str(address), name="Mina", room="dev", events=False) as mina:
            mina.send("hello")
            portal.call(chat.delete, "dev", 1, "moderator")
            [node] = redis.cli("ZRANGE", "machat:{nodes}", 0, -1)
            names = {"machat": "PREFIX", "dev": "ROOM", node.decode(): "NODE"}

            def in_general(name: bytes) -> str:
                in_words = re.sub(r"[\w-]+", lambda word: names.get(word[0], word[0]), name.decode())
                return re.sub(":sent:[0-9a-f]{32}$", ":sent:SESSION", in_words)

            eventually(lambda: redis.cli("EXISTS", f"machat:{{rooms:{node.decode()}}}"), "no list of rooms")
            keys = {f"`{in_general(key)}`" for key in redis.cli("KEYS", "*")}
            keys |= {f"channel `{in_general(channel)}`" for channel in redis.cli("PUBSUB", "CHANNELS")}
            assert {row["key"] for row in table("key", "what it is")} == keys
            for line in watching.body.splitlines():
                program, *words = shlex.split(line.removeprefix("$ "))
                assert program == "redis-cli"
                assert redis.cli(*words), line
        portal.call(chat.drain)
