"""A file system that refuses for a while ends no task: what asks it asks again, ever less often."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

from sweepctl.errors import StorageError
from sweepctl.launch.feed import REST_MAX_S

T = TypeVar("T")
GLANCE_S = 0.2


def patiently(
    act: Callable[[], T],
    say: Callable[[str], None],
    retries: int,
    hurry: Callable[[], bool] = lambda: False,
) -> T:
    """What an act returns, tried again so often where the file system refuses, and not where time is short.

    Raises:
        StorageError: it goes on refusing.
    """
    for refusals in itertools.count(1):
        try:
            return act()
        except FileNotFoundError:
            raise
        except (StorageError, OSError) as error:
            if refusals > retries or hurry():
                raise StorageError(f"{error} It was tried {refusals} times.") from error
            pause_s = min(REST_MAX_S, 2.0 ** min(10, refusals - 1))
            say(f"{error} Trying again in {pause_s:.0f} s.")
            deadline = time.monotonic() + pause_s
            while time.monotonic() < deadline and not hurry():
                time.sleep(GLANCE_S)
    raise AssertionError("unreachable")
