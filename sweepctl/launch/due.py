"""Something that is looked at again and again, not too often."""

from __future__ import annotations

import time
from collections.abc import Callable


class Due:
    """Due when it is first asked, then every so many seconds, and at once after `hasten`."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._next: float | None = None

    def is_due(self) -> bool:
        """Whether to look now; then not again for a while."""
        now = self._clock()
        if self._next is not None and now < self._next:
            return False
        self._next = now + self._every_s
        return True

    def hasten(self) -> None:
        """Look when it is asked next."""
        self._next = None
