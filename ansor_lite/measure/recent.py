"""What a worker remembers of the tasks it was last asked about, as far as memory allows."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """Values by key; the least recently used go while all together exceed ``limit`` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    def get(self, key: str, size: int, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made when it is not there; ``size`` is what it takes, in bytes."""
        if key not in self._kept:
            while self._kept and self._total() + size > self.limit:
                self._kept.popitem(last=False)
            self._kept[key] = (make(), size)
        self._kept.move_to_end(key)
        return self._kept[key][0]

    def _total(self) -> int:
        return sum(size for _, size in self._kept.values())
