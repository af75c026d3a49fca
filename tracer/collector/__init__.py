"""The local collector: the API of the wire contract over SQLite."""
