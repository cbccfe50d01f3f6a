"""A broker that keeps every message in a SQLite file."""

from ...limits import Keep
from .broker import SQLiteBroker

__all__ = ["Keep", "SQLiteBroker"]
