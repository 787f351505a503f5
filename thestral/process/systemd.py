"""Messages to systemd (sd_notify(3)); they go nowhere unless $NOTIFY_SOCKET is set."""

from __future__ import annotations

import os
import socket
import time

# Longest wait for a busy service manager, with the messages that it must not miss.
PATIENCE = 1.0  # seconds


def notify(*lines: str, patience: float = 0.0) -> None:
    """Send "NAME=VALUE" lines to the service manager. If there is none, or if it does not read the
    message within `patience` seconds, the message is dropped without an error.
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
            pass  # the service manager is gone, or its queue is full


def ready() -> None:
    notify("READY=1", f"MAINPID={os.getpid()}", patience=PATIENCE)


def reloading() -> None:
    """Say that a reload has begun; ready() must follow. systemd compares the time with its own."""
    usec = time.monotonic_ns() // 1000
    notify("RELOADING=1", f"MONOTONIC_USEC={usec}", patience=PATIENCE)


def starting(allowed: float) -> None:
    """Say that the start has begun; ready() must follow within `allowed` seconds. TimeoutStartSec
    is extended to that if it is shorter.

    The time is announced once and not extended in steps, because the import of the application
    blocks the main thread, and often holds the GIL.
    """
    notify(extension(allowed), patience=PATIENCE)


def stopping(allowed: float) -> None:
    """Say that the shutdown has begun; the process must end within `allowed` seconds.
    TimeoutStopSec is extended to that if it is shorter.
    """
    notify("STOPPING=1", extension(allowed), patience=PATIENCE)


def extension(allowed: float) -> str:
    """Line that extends systemd's current time-out to at least `allowed` seconds from now; a longer
    one does not change.
    """
    return f"EXTEND_TIMEOUT_USEC={round(allowed * 1_000_000)}"


def watchdog_interval() -> float | None:
    """Time between calls of notify("WATCHDOG=1"), in seconds: half of what systemd allows; None if
    systemd does not expect them from this process.
    """
    allowed = os.environ.get("WATCHDOG_USEC", "")
    if not allowed.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(allowed) / 2_000_000 or None
