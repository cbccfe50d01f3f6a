"""Doors: a listener and the protocol spoken on it."""
