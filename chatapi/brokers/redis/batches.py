"""Batches: what a node did in a room in one go, as the bytes that Redis publishes, keeps and gives back.

A batch is one line that the script of the room has written, which says where it stands, and then one piece for each
step: messages, a deletion, somebody who came, left or took another name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from pydantic_core import from_json, to_json

from ...core.entries import AnyKept, Deletion, Said
from ...core.session_keys import hash_key


class Head(NamedTuple):
    """Where a batch stands: the room's numbers before it and after it."""

    epoch: str
    last_seq: int
    last_ts: int
    last_pv: int
    """The version of the roster: it grows where that changes."""
    first_ts: int
    """The time of its first message; the others follow microsecond by microsecond."""
    seq: int
    pv: int
    first: int
    """The oldest message that is kept."""
    node: str
    turn: int
    """The node's own number for it."""
    dropped: frozenset[int]
    """Which of its steps did not take place."""


class Came(NamedTuple):
    """Somebody came in, or came back through another node."""

    quiet: bool
    key: str
    node: str
    name: str


class Went(NamedTuple):
    """Somebody left."""

    quiet: bool
    key: str
    reason: str
    name: str


class Called(NamedTuple):
    """Somebody has another name."""

    quiet: bool
    key: str
    to_key: str
    name: str
    to: str


Step: TypeAlias = AnyKept | Came | Went | Called


def messages(said: Sequence[Said], session: Callable[[str], str] = hash_key) -> bytes:
    """The piece for messages; `session` makes of what they have for one what is kept."""
    header = to_json([(one.name, one.count, len(one.block), session(one.session), one.ids, one.erased) for one in said])
    blocks = b"".join([one.block for one in said])
    return b"m\t%d\t%d\n%b%b" % (len(header), len(blocks), header, blocks)


def deletion(entry: Deletion) -> bytes:
    """The piece for a deletion."""
    return f"d\t{entry.target}\t{entry.name}\n".encode()


def came(step: Came) -> bytes:
    """The piece for somebody who came."""
    return f"j\t{int(step.quiet)}\t{step.key}\t{step.node}\t{step.name}\n".encode()


def went(step: Went) -> bytes:
    """The piece for somebody who left."""
    return f"l\t{int(step.quiet)}\t{step.key}\t{step.reason}\t{step.name}\n".encode()


def called(step: Called) -> bytes:
    """The piece for somebody with another name."""
    return f"r\t{int(step.quiet)}\t{step.key}\t{step.to_key}\t{step.name}\t{step.to}\n".encode()


def head(batch: bytes) -> tuple[Head, int]:
    """Where a batch stands, and where its pieces begin."""
    end = batch.index(b"\n")
    epoch, seq, ts, pv, first_ts, last, last_pv, first, node, turn, dropped = batch[:end].decode().split(" ")
    gone = frozenset() if dropped == "-" else frozenset(map(int, dropped.split(",")))
    numbers = int(seq), int(ts), int(pv), int(first_ts), int(last), int(last_pv), int(first)
    return Head(epoch, *numbers, node, int(turn), gone), end + 1


def steps(batch: bytes, head: Head, at: int) -> Iterator[Step]:
    """What was done, messages and deletions with their places."""
    seq, ts = head.last_seq + 1, head.first_ts
    while at < len(batch):
        end = batch.index(b"\n", at)
        kind, *fields = batch[at:end].split(b"\t")
        at = end + 1
        if kind == b"m":
            blocks = at + int(fields[0])
            for said in _messages(batch[at:blocks], batch, blocks):
                said.seq, said.ts = seq, ts
                seq, ts = seq + said.count, ts + said.count
                yield said
            at = blocks + int(fields[1])
        elif kind == b"d":
            gone = Deletion(fields[1].decode(), int(fields[0]))
            gone.seq, gone.ts = seq, ts
            seq, ts = seq + 1, ts + 1
            yield gone
        else:
            first, *rest = (field.decode() for field in fields)
            if kind == b"j":
                yield Came(first == "1", *rest)
            elif kind == b"l":
                yield Went(first == "1", *rest)
            elif kind == b"r":
                yield Called(first == "1", *rest)


def kept(batch: bytes) -> list[AnyKept]:
    """The messages and deletions of a batch, with their places."""
    return [step for step in steps(batch, *head(batch)) if isinstance(step, Said | Deletion)]


def newest(found: Sequence[bytes], before: int, most: int, max_bytes: int) -> list[AnyKept]:
    """The newest entries with a number below `before`, the oldest of them first, but no more than are wanted.

    At least one, where there is any, however few bytes are wanted: who gets none takes it that there are none.
    """
    wanted: list[AnyKept] = []
    count = size = 0
    for entry in reversed([entry for batch in found for entry in kept(batch) if entry.seq < before]):
        if count >= most or (wanted and size >= max_bytes):
            break
        wanted.append(entry)
        count += min(entry.count, before - entry.seq) if isinstance(entry, Said) else 0
        size += entry.weight
    return wanted[::-1]


def _messages(header: bytes, batch: bytes, at: int) -> Iterator[Said]:
    for name, count, size, session, ids, erased in from_json(header):
        said = Said(0, name, batch[at : at + size], count, None if ids is None else tuple(ids), session)
        said.erased = erased
        at += size
        yield said


def without(batch: bytes, target: int) -> bytes:
    """The batch without the text of one of its messages."""
    at = batch.index(b"\n") + 1
    said = kept(batch)
    for one in said:
        if isinstance(one, Said) and one.seq <= target < one.seq + one.count:
            one.erase(target)
    pieces = [messages([one], str) if isinstance(one, Said) else deletion(one) for one in said]
    return batch[:at] + b"".join(pieces)
