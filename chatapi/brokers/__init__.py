"""Brokers: they keep rooms in memory, in a SQLite file, or in Redis. Each is imported only if it is used."""
