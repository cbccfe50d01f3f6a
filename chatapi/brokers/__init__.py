"""Brokers that keep their rooms elsewhere than in the process; each is imported only where it is used."""
