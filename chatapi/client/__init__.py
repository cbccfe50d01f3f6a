"""The client library: a program that connects to a server over the network."""
