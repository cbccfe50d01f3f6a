"""A chat server with a bot in it that rolls dice: say `!roll` or `!roll 3` in the room `lounge`.

python examples/bot.py [HOST:PORT]

Ctrl-C drains the server; then the program ends with code 0.
"""

from __future__ import annotations

import argparse
import random
import re
import sys

import gotcpchat
from chatapi import AddressError, Bot, ChatAPI, ChatError, Message, Whisper

chat = ChatAPI()


def roll(text: str) -> str | None:
    """Return the bot's answer to a text; None if it has none."""
    asked = re.fullmatch(r"!roll(?: ([1-9]))?", text)
    if asked is None:
        return None
    return " ".join(str(random.randint(1, 6)) for _ in range(int(asked[1] or 1)))


async def answer(bot: Bot, event: Message | Whisper, text: str) -> None:
    """Answer a message in the room, and a whisper with a whisper."""
    if isinstance(event, Message):
        await bot.post(f"{event.name} rolls {text}")
        return
    try:
        await bot.whisper(event.name, text)
    except ChatError:
        pass  # the member has left, or does not read


async def dice() -> None:
    """Run the bot in the room until the server ends."""
    async with chat.join("dice", "lounge") as bot:
        async for event in bot:
            if isinstance(event, Message | Whisper) and (text := roll(event.text)):
                await answer(bot, event, text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat server with a bot in it that rolls dice.")
    parser.add_argument("address", nargs="?", default="localhost:8989", metavar="HOST:PORT", help="where to listen")
    try:
        in_good_order = gotcpchat.run_tcp(parser.parse_args().address, chat, started=print, beside=dice)
    except AddressError as error:
        parser.error(str(error))
    except OSError as error:
        sys.exit(f"{parser.prog}: cannot listen: {error}")
    sys.exit(0 if in_good_order else 1)  # 1 after a second Ctrl-C
