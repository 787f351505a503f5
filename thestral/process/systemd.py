"""What systemd wants to hear (sd_notify(3)); silent where it does not listen."""

from __future__ import annotations

import os
import socket
import time

# For a manager that does not read, with what it must not miss.
PATIENCE = 1.0  # seconds


def notify(*lines: str, patience: float = 0.0) -> None:
    """Send "NAME=VALUE" lines to the service manager; nobody there is no error, nor is one that
    takes none of it for `patience` seconds.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(patience)
        try:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall("\n".join(lines).encode())
        except OSError:
            pass  # the manager is gone, or has enough to read: it will not miss us


def ready() -> None:
    notify("READY=1", f"MAINPID={os.getpid()}", patience=PATIENCE)


def reloading() -> None:
    """To be followed by ready(); systemd compares the time with its own."""
    usec = time.monotonic_ns() // 1000
    notify("RELOADING=1", f"MONOTONIC_USEC={usec}", patience=PATIENCE)


def starting(allowed: float) -> None:
    """To be followed by ready() within so many seconds, even if TimeoutStartSec is shorter.

    Said once and for all: nobody could say it while the application is imported, which holds the
    main thread, and often the interpreter.
    """
    notify(extension(allowed), patience=PATIENCE)


def stopping(allowed: float) -> None:
    """To be followed by the end within so many seconds, even if TimeoutStopSec is shorter."""
    notify("STOPPING=1", extension(allowed), patience=PATIENCE)


def extension(allowed: float) -> str:
    """A time-out of systemd's is at least so many seconds from now; a longer one stays."""
    return f"EXTEND_TIMEOUT_USEC={round(allowed * 1_000_000)}"


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
