r"""A test kit for chats: a virtual clock, connections without sockets, and the contract suite for brokers.

With it a whole chat runs step by step inside a test, without an event loop and without waiting::

    kit = ChatKit(limits=Limits(grace=5))
    mina, zoe = kit.member("Mina", "dev"), kit.member("Zoe", "dev")
    mina.send("hello\n")
    kit.settle()
    assert zoe.received() == "Mina:hello\n"

Everything here is part of the public API.
"""

from .clock import VirtualClock
from .contract.recorder import Recorder
from .contract.suite import BrokerContract
from .kit import ChatKit, Peer
from .late_broker import LateBroker
from .proxy import Plan, Proxy
from .transport import MemoryTransport

__all__ = [
    "BrokerContract",
    "ChatKit",
    "LateBroker",
    "MemoryTransport",
    "Peer",
    "Plan",
    "Proxy",
    "Recorder",
    "VirtualClock",
]
