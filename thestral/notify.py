"""What systemd wants to hear (sd_notify(3)); silent where it does not listen."""

from __future__ import annotations

import os
import socket
import time


def notify(*lines: str) -> None:
    """Send "NAME=VALUE" lines to the service manager; nobody there is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall("\n".join(lines).encode())
        except OSError:
            pass  # the manager is gone: it will not miss us


def ready() -> None:
    notify("READY=1", f"MAINPID={os.getpid()}")


def reloading() -> None:
    """To be followed by ready(); systemd compares the time with its own."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    notify("STOPPING=1")


def watchdog_interval() -> float | None:
    """Seconds between calls of notify("WATCHDOG=1"), half of what systemd allows; None if it does
    not ask this process.
    """
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(allowed) / 2_000_000 or None
