"""The server: sockets, connections, and the doors that connections come through."""
