"""`Pending`: a result that may come later, for code that has no event loop. `tasks.wait` waits for it on one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, cast

_T = TypeVar("_T")
_U = TypeVar("_U")


class Pending(Generic[_T]):
    """The result of work that may take time: a value, or the error that took its place. It is set exactly once.

    The function that begins the work returns it. The work calls `resolve` or `fail`, possibly before that function
    returns.
    """

    __slots__ = ("_callbacks", "_value", "done", "error")

    def __init__(self) -> None:
        self.done: bool = False
        """Whether the result is there."""
        self.error: Exception | None = None
        """The error, if the work has failed."""
        self._value: _T | None = None
        self._callbacks: list[Callable[[Pending[_T]], None]] = []

    @classmethod
    def resolved(cls, value: _T) -> Pending[_T]:
        """Return one that has its value already."""
        pending = cls()
        pending._value, pending.done = value, True
        return pending

    @classmethod
    def failed(cls, error: Exception) -> Pending[_T]:
        """Return one that has failed already."""
        pending = cls()
        pending.error, pending.done = error, True
        return pending

    def resolve(self, value: _T) -> None:
        """Set the value, and call back."""
        assert not self.done, "this result is set already; it can be set only once"
        self._value = value
        self._settle()

    def fail(self, error: Exception) -> None:
        """Set the error, and call back."""
        assert not self.done, "this result is set already; it can be set only once"
        self.error = error
        self._settle()

    def then(self, callback: Callable[[Pending[_T]], None]) -> None:
        """Call `callback` with this object: at once if the result is there, otherwise when it is set."""
        if self.done:
            callback(self)
        else:
            self._callbacks.append(callback)

    def map(self, convert: Callable[[_T], _U]) -> Pending[_U]:
        """Return the result of `convert`, which is called with the value; an error stays as it is."""
        mapped: Pending[_U] = Pending()
        self.then(lambda _: mapped.resolve(convert(self.result())) if self.error is None else mapped.fail(self.error))
        return mapped

    def result(self) -> _T:
        """Return the value, or raise the error. The result must be there."""
        assert self.done
        if self.error is not None:
            raise self.error
        return cast("_T", self._value)

    def _settle(self) -> None:
        self.done = True
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)
