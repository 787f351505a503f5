"""The admin port: how operators see inside a running server, and what they can tell it to do."""
