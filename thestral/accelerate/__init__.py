"""Makes requests of FastAPI cost less: replaces functions of FastAPI, Starlette and anyio by ones
that do the same and work out only once what is the same for each request.

It is on only where it is asked for, and works under any server. What it does not know exactly goes
FastAPI's own way: code that differs from what was tested turns the group off that stands for it,
and a request with anything unusual is left to the function that was replaced.
"""

from __future__ import annotations

from collections.abc import Iterable

from thestral.accelerate.groups import FASTAPI, turn_on

__all__ = ["fastapi", "threads"]


def fastapi(groups: Iterable[str] = FASTAPI, *, require: bool = False) -> dict[str, str | None]:
    """Accelerate FastAPI in this process. Call it before the application is made.

    Args:
        groups: names of what to accelerate; all by default.
        require: whether to raise if a group does not fit what is installed. Else a line of the log
            says why it stays off.

    Returns:
        For each group, why it is off; None if it is on.

    Raises:
        AccelerateError: a group is required, and off.
        ValueError: there is no such group.
    """
    return turn_on(groups, require)


def threads(*, require: bool = False) -> dict[str, str | None]:
    """Accelerate anyio.to_thread.run_sync(), which runs functions that are not async, also of
    Starlette and other frameworks; see fastapi().
    """
    return turn_on(["threads"], require)
