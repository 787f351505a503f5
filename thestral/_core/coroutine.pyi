from asyncio import Task
from typing import Any, final

@final
class Finished:
    """In place of what a coroutine waits for: it has returned."""

def advance(coroutine: Any) -> Any:
    """Run a coroutine to its next wait.

    Returns:
        What it waits for, to be handed to the loop; the class Finished if it has returned.

    Raises:
        BaseException: what it raises.
    """

def is_native(thing: Any) -> bool:
    """Whether it is a coroutine of Python's own making, types.CoroutineType."""

def is_held_once(thing: Any) -> bool:
    """Whether nobody holds it but the caller's local name and one place more; then it may be used
    for something else.
    """

def this_thread() -> int:
    """threading.get_ident()."""

def task_of(coroutine: Any, arguments: dict[str, Any]) -> Task[None]:
    """asyncio.Task(coroutine, **arguments), by that dictionary itself and no copy."""
