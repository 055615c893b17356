"""Retry requests that fail, with increasing waits."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from histocli.errors import HistoError

RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}  # HTTP status codes for which a later request may succeed

T = TypeVar("T")


class RetryableError(Exception):
    """The request may succeed if it is sent again; `wait` is the wait in seconds that the server requested, if any."""

    def __init__(self, message: str, wait: float | None = None) -> None:
        super().__init__(message)
        self.wait = wait


@dataclass(frozen=True)
class RetryPolicy:
    """The policy for retries: `tries` is the number of tries in a row without progress; waits are in seconds."""

    tries: int = 8
    first_wait: float = 1.0
    longest_wait: float = 120.0
    timeout: float = 60.0
    sleep: Callable[[float], None] = time.sleep

    def run(self, attempt: Callable[[], T], failure: str, hint: str, progress: Callable[[], int] = lambda: 0) -> T:
        """Call `attempt` until it raises no RetryableError, and return its result.

        The count of failed tries starts again at 1 only if `progress()` is larger than ever before. Therefore a server
        that always sends the same first bytes again does not cause an endless loop.

        Raises:
            HistoError: all tries failed; the message begins with `failure`.
        """
        failures, furthest = 0, progress()
        while True:
            try:
                return attempt()
            except RetryableError as error:
                failures = 1 if progress() > furthest else failures + 1
                furthest = max(furthest, progress())
                if failures >= self.tries:
                    raise HistoError(f"{failure}: {error} ({failures} tries)", hint) from error
                wait = error.wait
            if wait is None:  # exponential backoff with jitter
                wait = self.first_wait * 2 ** (failures - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            self.sleep(min(self.longest_wait, max(wait, 0.0)))


DEFAULT_POLICY = RetryPolicy()
