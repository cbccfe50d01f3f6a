"""The contract suite for brokers: the duties of a broker, and the promises of a whole chat over it."""

from __future__ import annotations

from typing import Any, Final

from .chats import ChatContract
from .keeping import KeepingContract
from .order import OrderContract
from .presence import PresenceContract
from .shared_chats import SharedChatContract
from .sharing import SharingContract
from .subject import claims_of

_NOT_CLAIMED: Final = "not a test of this broker"
"""In the place of a test that is left out: pytest does not collect what cannot be called."""


class BrokerContract(
    OrderContract, KeepingContract, SharingContract, PresenceContract, ChatContract, SharedChatContract
):
    """Tests for every broker, for pytest and its plugin of anyio. A subclass names the broker::

        class TestMine(BrokerContract):
            pytestmark = pytest.mark.anyio
            keeps = True

            @pytest.fixture(autouse=True)
            def _place(self, tmp_path):
                self.path = tmp_path / "chat.db"

            def broker(self, clock):
                return MyBroker(self.path, clock)

    A subclass has only the tests that match its attributes and methods: those of keeping if `keeps` is true, of shared
    rooms if `shares` is true, of failures if `fail` is overridden, of nodes that die if `cut_off` is overridden, of
    forgetting if `forgets_after` is not 0, and those that turn the clock if `own_clock` is false. Another test fails if
    `keeps`, `shares` or `own_clock` is wrong. docs/reference/broker.md explains each group.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in dir(BrokerContract):
            test = getattr(BrokerContract, name)
            claims = claims_of(test)
            if claims and getattr(cls, name) in (test, _NOT_CLAIMED):  # otherwise the subclass has a test of its own
                setattr(cls, name, test if all(claim(cls) for claim in claims) else _NOT_CLAIMED)
