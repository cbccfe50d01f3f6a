"""What one line may not do to the next: bidirectional controls and line separators, on every path that a text takes."""

from __future__ import annotations

import io
import json
import unicodedata
from collections.abc import Callable

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import Parser, State
from profiles import examples
from speakers import Speaker

from chatapi import ChatAPI, Limits, Message, TextTooLong
from chatapi.cli.importing import Import
from chatapi.core.entries import Said
from chatapi.core.hooks import Hooks
from chatapi.protocol.framing import Lines
from chatapi.testing import ChatKit
from chatapi.text import clean, close_lines, find_fault, one_line

BEGIN_EMBEDDING, BEGIN_ISOLATE = "\u202a\u202b\u202d\u202e", "\u2066\u2067\u2068"
POP, POP_ISOLATE = "\u202c", "\u2069"
CONTROLS = BEGIN_EMBEDDING + BEGIN_ISOLATE + POP + POP_ISOLATE

CASES = [
    ("\u202eabc", "\u202eabc\u202c"),
    ("a\u202ab", "a\u202ab\u202c"),
    ("a\u202bb\u202dc", "a\u202bb\u202dc\u202c\u202c"),
    ("\u2066a", "\u2066a\u2069"),
    ("\u2067a\u2068b", "\u2067a\u2068b\u2069\u2069"),
    ("\u202e\u2067a", "\u202e\u2067a\u2069\u202c"),
    ("\u2067\u202ea", "\u2067\u202ea\u202c\u2069"),
    ("\u2067\u202ea\u2069", "\u2067\u202ea\u2069"),  # the end of an isolate ends what is open within
    ("\u202e\u2067a\u202c", "\u202e\u2067a\u202c\u2069\u202c"),  # the end of an embedding does not reach out of one
    ("\u202e\u2067a\u2069b", "\u202e\u2067a\u2069b\u202c"),
    ("\u202eabc\u202c", "\u202eabc\u202c"),
    ("a\u202c\u2069b", "a\u202c\u2069b"),  # they end nothing, and so they do nothing
    ("a\u2069\u2067b", "a\u2069\u2067b\u2069"),
    ("\u200fa\u200e\u061c", "\u200fa\u200e\u061c"),  # marks: nothing stays open
    ("“typographic” – ‘quotes’…", "“typographic” – ‘quotes’…"),
    ("\u2027\u202f\u2065\u206a⁦", "\u2027\u202f\u2065\u206a⁦\u2069"),
    ("a\u2028b\u2029c", "a b c"),
    ("\u2028", " "),
]


def is_closed(line: str) -> bool:
    """Whether nothing is open at the end of a line, by rules X5a to X7 of Unicode Standard Annex #9."""
    open_ = ""
    for char in line:
        if char in BEGIN_EMBEDDING + BEGIN_ISOLATE:
            open_ += char
        elif char == POP and open_[-1:] and open_[-1] in BEGIN_EMBEDDING:
            open_ = open_[:-1]
        elif char == POP_ISOLATE and any(begin in open_ for begin in BEGIN_ISOLATE):
            open_ = open_.rstrip(BEGIN_EMBEDDING)[:-1]
    return not open_


# Every path


def _text(text: str, **options: bool) -> str:
    kit = ChatKit(**options)
    zoe, mina = kit.member("Zoe"), kit.member("Mina")
    mina.send(f"{text}\n")
    kit.settle()
    (line,) = zoe.lines()
    return line.removeprefix("Mina:")


def _run_of_lines(text: str) -> str:
    kit = ChatKit()
    zoe, mina = kit.member("Zoe"), kit.member("Mina")
    mina.send(f"before\n{text}\n\n\x1b\nbehind\r\n")
    kit.settle()
    first, line, last = zoe.lines()
    assert (first, last) == ("Mina:before", "Mina:behind")
    return line.removeprefix("Mina:")


def _telnet(text: str) -> str:
    kit = ChatKit()
    zoe, mina = kit.member("Zoe", "lounge"), kit.connect(telnet=True)
    mina.send(f"Mina\r\n{text}\r\n")
    kit.settle()
    (line,) = zoe.lines()
    return line.removeprefix("Mina:")


def _text_whisper(text: str) -> str:
    kit = ChatKit()
    zoe, mina = kit.member("Zoe"), kit.member("Mina")
    mina.send(f"@zoe .{text}\n")  # the dot, since blanks at the ends of a command mean nothing
    kit.settle()
    (line,) = zoe.lines()
    return line.removeprefix("* Mina whispers: .")


def _frame(kind: str) -> Callable[[str], str]:
    def path(text: str) -> str:
        kit = ChatKit()
        zoe = Speaker(kit, "Zoe").opened()
        mina = Speaker(kit, "Mina").opened()
        zoe.frames()
        mina.send(kind, text=text, **({"to": "Zoe"} if kind == "whisper" else {}))
        return str(zoe.frame()["text"])

    return path


def _hook(kind: str) -> Callable[[str], str]:
    """A text that the program's hook puts in place of another."""

    def path(text: str) -> str:
        kit = ChatKit(hooks=Hooks(on_message=lambda client, said: text))
        zoe = Speaker(kit, "Zoe").opened()
        mina = kit.member("Mina", protocol=kind)
        mina.send("x\n" if kind == "text" else '{"type": "message", "text": "x"}\n')
        return str(zoe.frames()[-1]["text"])

    return path


def _bot(text: str) -> str:
    async def run() -> str:
        chat = ChatAPI()
        async with chat.join("Mina", "dev") as mina:
            message = await mina.post(text)
            assert message is not None
            return message.text

    return anyio.run(run)


def _bot_nowait(text: str) -> str:
    async def run() -> str:
        chat = ChatAPI()
        async with chat.join("Zoe", "dev") as zoe, chat.join("Mina", "dev") as mina:
            mina.post_nowait(text)
            async for event in zoe:
                if isinstance(event, Message):
                    break
            return event.text

    return anyio.run(run)


def _import(text: str) -> str:
    lines = Import(io.BytesIO(json.dumps({"name": "Mina", "text": text}).encode()), 1, lambda done: None)
    (said,) = lines.entries()
    assert isinstance(said, Said)
    return said.texts()[0]


PATHS = {
    "text": _text,
    "text without commands": lambda text: _text(text, commands=False),
    "text as in MaChat in Go": lambda text: _text(text, machat=True, echo=False),
    "run of lines": _run_of_lines,
    "telnet": _telnet,
    "text whisper": _text_whisper,
    "message frame": _frame("message"),
    "whisper frame": _frame("whisper"),
    "text hook": _hook("text"),
    "json hook": _hook("json"),
    "Bot.post": _bot,
    "Bot.post_nowait": _bot_nowait,
    "import": _import,
}


@pytest.mark.parametrize(("text", "shown"), CASES)
def test_a_line_ends_what_it_begins(text: str, shown: str) -> None:
    assert is_closed(shown)
    assert PATHS["text"](text) == shown


@pytest.mark.parametrize("path", PATHS)
def test_a_line_ends_what_it_begins_on_every_path(path: str) -> None:
    for text, shown in (("\u202e\u2067a", "\u202e\u2067a\u2069\u202c"), ("a\u2028b\u2029c", "a b c")):
        assert PATHS[path](text) == shown


def test_each_line_of_a_text_by_itself() -> None:
    kit = ChatKit()
    zoe, bob = Speaker(kit, "Zoe").opened(), kit.member("Bob")
    mina = Speaker(kit, "Mina").opened()
    mina.send("message", text="\u202eone\n\n\u2067two\n\x07three")
    kit.settle()
    assert zoe.frames()[-1]["text"] == "\u202eone\u202c\n\u2067two\u2069\nthree"
    assert bob.lines() == ["Mina:\u202eone\u202c", "Mina:\u2067two\u2069", "Mina:three"]


# What is understood stays the same


@pytest.mark.parametrize(
    "before", ["\x01/bye\n\u202ea\n\u202eb\n", "\u202ea\n\u202eb\n\x01/bye\n", "\u202e\n\n\x01/bye\n"]
)
def test_a_command_behind_a_control_character_is_one_whatever_closing_adds(before: str) -> None:
    kit = ChatKit()
    zoe, mina = kit.member("Zoe"), kit.member("Mina")
    mina.send(before)
    kit.settle()
    assert mina.lines() == ["* goodbye"]
    assert not any("bye" in line for line in zoe.lines())


texts = st.text("ab/@ \t\n\r\x07\x85\u00a0é“…\u2028\u2029" + CONTROLS, max_size=60)


@examples(300)
@given(texts)
@example("\n\n\n\u202e\n")  # as many bytes are added as are taken away
@example("\u202e\u202c\n\u2067\u202e\u2069")
def test_every_line_is_closed_and_none_comes_or_goes(text: str) -> None:
    block = f"{text}\n".encode()
    closed = close_lines(block)
    assert closed.count(b"\n") == block.count(b"\n")
    assert all(map(is_closed, closed.decode().split("\n")))
    cleaned = clean(block)
    assert clean(cleaned) == cleaned
    for was, line in zip(block.decode().split("\n"), closed.decode().split("\n"), strict=True):
        kept = was.replace("\u2028", " ").replace("\u2029", " ")
        assert line.startswith(kept)
        assert not line[len(kept) :].strip(POP + POP_ISOLATE)


@examples(300)
@given(texts, st.booleans())
@example("\n\n\n\u202e", False)
def test_as_many_messages_as_lines(text: str, commands: bool) -> None:
    session = Parser(Limits(), State.LINES)
    session.open(commands)
    session.feed(f"{text}\n".encode())
    while (step := session.step(100)) is not None:
        if isinstance(step, Lines):
            assert step.messages == step.block.count(b"\n")
            assert all(map(is_closed, step.block.decode().split("\n")))


@examples(300)
@given(st.text("ab\n\r\t\x1b\x9b\u2028" + CONTROLS, max_size=40) | st.text(max_size=40))
def test_one_line_is_one_line(text: str) -> None:
    line = one_line(text)
    assert is_closed(line)
    assert line.count("\t") == text.count("\t")
    assert not {char for char in line.replace("\t", "") if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")}
    assert one_line(line) == line


@pytest.mark.parametrize("text", ["", "plain", "Zoë – “…”", "private \ue000", "\u200fמינה"])
def test_one_line_that_is_harmless_stays(text: str) -> None:
    assert one_line(text) == text


# The limit counts what is added

OPEN = "\u202e"
BYTES = 3  # that it has, and that its end has


def test_a_line_of_the_limit_with_its_end_is_taken_on_every_path() -> None:
    for text in (OPEN + "x" * (64 - 2 * BYTES), OPEN * 10 + "xxxx"):
        for path in ("text", "frame", "whisper frame", "bot"):
            assert _refused(path, text) == "", path
    assert _refused("text whisper", OPEN + "x" * (61 - 2 * BYTES)) == ""  # of the line, "@z " is a part


def test_a_line_that_its_end_makes_too_long_is_refused_on_every_path() -> None:
    for text, size in ((OPEN + "x" * (65 - 2 * BYTES), 65), (OPEN * 11, 66)):
        for path in ("text", "frame", "whisper frame", "bot"):
            why = _refused(path, text)
            assert (
                f"has {size} bytes with the characters that close its bidirectional controls; at most 64 are allowed"
                in why
            ), path
    assert "has 65 bytes with the characters" in _refused("text whisper", OPEN + "x" * (62 - 2 * BYTES))


def test_separators_count_as_the_blanks_that_they_become_in_a_frame() -> None:
    assert _refused("frame", "\u2028" * 64) == ""
    assert "has 65 bytes; at most 64" in _refused("frame", "\u2028" * 63 + "xx")
    assert "has 193 bytes; at most 64" in _refused("frame", "\u2028" * 64 + "x")  # beyond three times the limit


def test_a_line_behind_a_refused_one_is_taken() -> None:
    kit = ChatKit(Limits(line_bytes=64))
    zoe, mina = kit.member("Zoe"), kit.member("Mina")
    mina.send(f"one\n{OPEN * 20}\n{OPEN}two\n")
    kit.settle()
    assert zoe.lines() == ["Mina:one", f"Mina:{OPEN}two{POP}"]
    assert len(mina.lines()) == 1


def _refused(path: str, text: str) -> str:
    """Why a text is refused where a line has at most 64 bytes; empty where it was said."""
    limits = Limits(line_bytes=64)
    if path == "bot":
        return _bot_refused(limits, text)
    kit = ChatKit(limits)
    zoe = kit.member("Z")
    if path.startswith("text"):
        mina = kit.member("Mina")
        mina.send(f"{text}\n" if path == "text" else f"@z {text}\n")
        kit.settle()
        answers = mina.lines()
        said = [line.partition("whispers: ")[2] or line.partition(":")[2] for line in zoe.lines()]
        why = "".join(answers)
    else:
        speaker = Speaker(kit, "Mina").opened()
        speaker.send("message", text=text) if path == "frame" else speaker.send("whisper", text=text, to="z")
        frame = speaker.frame()
        said = [line.partition("whispers: ")[2] or line.partition(":")[2] for line in zoe.lines()]
        why = str(frame.get("detail", ""))
    assert bool(said) is not bool(why)
    assert all(len(line.encode()) <= limits.line_bytes for line in said)
    return why


def _bot_refused(limits: Limits, text: str) -> str:
    async def run() -> str:
        async with ChatAPI(limits).join("Mina", "dev") as bot:
            try:
                assert await bot.post(text) is not None
            except TextTooLong as error:
                return str(error)
        return ""

    return anyio.run(run)


@examples(300)
@given(texts)
def test_no_line_that_is_taken_is_over_the_limit(text: str) -> None:
    block = f"{text}\n".encode()
    if find_fault(block, 64) is None:
        assert max(map(len, clean(block).split(b"\n"))) <= 64
