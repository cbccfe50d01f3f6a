"""Batches: the result of one node's turn in a room, as the bytes that Redis publishes, keeps and returns.

A batch is a header line, written by the script of the room, and one piece for each step: messages, a deletion, or a
member that joined, left or took another name. Nodes write the pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from pydantic_core import from_json, to_json

from ...core.entries import AnyKept, Deletion, Said
from ...core.session_keys import hash_key


class Header(NamedTuple):
    """The position of a batch: the room's numbers before it and after it."""

    epoch: str
    seq_before: int
    ts_before: int
    roster_version_before: int
    first_ts: int
    """The time of its first message; the others follow microsecond by microsecond."""
    seq: int
    roster_version: int
    first: int
    """The oldest message that the room keeps."""
    node: str
    turn: int
    """The number of the turn, given by the node."""
    dropped: frozenset[int]
    """Indexes of the steps of the turn that the script refused."""


class MemberJoined(NamedTuple):
    """A member joined, or took over its name on another node."""

    quiet: bool
    key: str
    node: str
    name: str


class MemberLeft(NamedTuple):
    """A member left."""

    quiet: bool
    key: str
    reason: str
    name: str


class MemberRenamed(NamedTuple):
    """A member took another name."""

    quiet: bool
    key: str
    to_key: str
    name: str
    to: str


Change: TypeAlias = AnyKept | MemberJoined | MemberLeft | MemberRenamed


def encode_messages(said: Sequence[Said], hash_session: Callable[[str], str] = hash_key) -> bytes:
    """Return the piece for messages; `hash_session` turns the session of each entry into the one that is kept."""
    runs = [(one.name, one.count, len(one.block), hash_session(one.session), one.ids, one.erased) for one in said]
    header = to_json(runs)
    blocks = b"".join([one.block for one in said])
    return b"m\t%d\t%d\n%b%b" % (len(header), len(blocks), header, blocks)


def encode_deletion(entry: Deletion) -> bytes:
    """Return the piece for a deletion."""
    return f"d\t{entry.target}\t{entry.name}\n".encode()


def encode_joined(change: MemberJoined) -> bytes:
    """Return the piece for a member that joined."""
    return f"j\t{int(change.quiet)}\t{change.key}\t{change.node}\t{change.name}\n".encode()


def encode_left(change: MemberLeft) -> bytes:
    """Return the piece for a member that left."""
    return f"l\t{int(change.quiet)}\t{change.key}\t{change.reason}\t{change.name}\n".encode()


def encode_renamed(change: MemberRenamed) -> bytes:
    """Return the piece for a member that took another name."""
    return f"r\t{int(change.quiet)}\t{change.key}\t{change.to_key}\t{change.name}\t{change.to}\n".encode()


def parse_header(batch: bytes) -> tuple[Header, int]:
    """Return the header of a batch, and the index at which its pieces begin."""
    end = batch.index(b"\n")
    epoch, seq, ts, version, first_ts, last, last_version, first, node, turn, dropped = batch[:end].decode().split(" ")
    numbers = int(seq), int(ts), int(version), int(first_ts), int(last), int(last_version), int(first)
    indexes = frozenset() if dropped == "-" else frozenset(map(int, dropped.split(",")))
    return Header(epoch, *numbers, node, int(turn), indexes), end + 1


def changes(batch: bytes, header: Header, at: int) -> Iterator[Change]:
    """Yield what the pieces from `at` on say; messages and deletions have their `seq` and `ts`."""
    seq, ts = header.seq_before + 1, header.first_ts
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
            deletion = Deletion(fields[1].decode(), int(fields[0]))
            deletion.seq, deletion.ts = seq, ts
            seq, ts = seq + 1, ts + 1
            yield deletion
        else:
            quiet, *rest = (field.decode() for field in fields)
            if kind == b"j":
                yield MemberJoined(quiet == "1", *rest)
            elif kind == b"l":
                yield MemberLeft(quiet == "1", *rest)
            elif kind == b"r":
                yield MemberRenamed(quiet == "1", *rest)


def kept_entries(batch: bytes) -> list[AnyKept]:
    """Return the messages and deletions of a batch, with their `seq` and `ts`."""
    return [change for change in changes(batch, *parse_header(batch)) if isinstance(change, Said | Deletion)]


def newest_entries(batches: Sequence[bytes], before: int, messages: int, max_bytes: int) -> list[AnyKept]:
    """Return the newest entries with a number below `before`, oldest first: at most `messages`, about `max_bytes`.

    If there is any entry, at least one is returned, because an empty answer means that nothing older exists.
    """
    page: list[AnyKept] = []
    count = size = 0
    for entry in reversed([entry for batch in batches for entry in kept_entries(batch) if entry.seq < before]):
        if count >= messages or (page and size >= max_bytes):
            break
        page.append(entry)
        count += min(entry.count, before - entry.seq) if isinstance(entry, Said) else 0
        size += entry.weight
    return page[::-1]


def redact(batch: bytes, target: int) -> bytes:
    """Return the batch without the text of one of its messages."""
    entries = kept_entries(batch)
    for entry in entries:
        if isinstance(entry, Said) and entry.seq <= target < entry.seq + entry.count:
            entry.erase(target)
    pieces = [encode_messages([one], str) if isinstance(one, Said) else encode_deletion(one) for one in entries]
    return batch[: batch.index(b"\n") + 1] + b"".join(pieces)


def _messages(header: bytes, batch: bytes, at: int) -> Iterator[Said]:
    for name, count, size, session, ids, erased in from_json(header):
        said = Said(0, name, batch[at : at + size], count, None if ids is None else tuple(ids), session)
        said.erased = erased
        at += size
        yield said
