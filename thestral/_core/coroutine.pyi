from asyncio import Task
from typing import Any, final

@final
class Finished:
    """Returned by advance() when the coroutine has returned."""

def advance(coroutine: Any) -> Any:
    """Run a coroutine until it waits or returns.

    Returns:
        What the coroutine waits for, to be passed to the loop; the class Finished if it returned.

    Raises:
        BaseException: whatever the coroutine raises.
    """

def is_native(thing: Any) -> bool:
    """Whether an object is a native coroutine (types.CoroutineType)."""

def is_held_once(thing: Any) -> bool:
    """Whether an object has only one reference besides the caller's variable, so that it can be
    reused.
    """

def this_thread() -> int:
    """Return threading.get_ident()."""

def task_of(coroutine: Any, arguments: dict[str, Any]) -> Task[None]:
    """Return asyncio.Task(coroutine, **arguments), without copying the dict."""
