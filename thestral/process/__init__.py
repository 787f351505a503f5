"""Processes: the supervisor, its workers, the life of one server, and the system around them."""
