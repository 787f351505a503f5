from typing import Any, final

@final
class Template:
    """A dict that each request gets a copy of its own of.

    Args:
        items: whose values are empty dicts, of which each copy has its own too, or immutable.
    """

    def __init__(self, items: dict[str, Any]) -> None: ...
    def fresh(self) -> dict[str, Any]:
        """A copy that nobody else has: the last one, if nobody holds it any more and nobody has
        changed it, which costs a third of making one.
        """
