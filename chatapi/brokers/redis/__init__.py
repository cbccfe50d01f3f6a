"""A broker that keeps rooms in Redis: several servers are one chat."""

from .broker import RedisBroker

__all__ = ["RedisBroker"]
