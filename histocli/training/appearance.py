"""The appearance of the training patches, which a thread measures while the first epoch trains."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from histocli.data.loaders import PatchLoader
from histocli.data.quality import Reference


class TrainingAppearance:
    """Measures the appearance of the training patches, for the checkpoints of a run.

    Attributes:
        values: the fields of `Reference`; empty until `wait` was called.
    """

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._job: Future[Reference] | None = None

    def start(self, patches: PatchLoader, seed: int) -> None:
        """Start to measure a random sample of the patches on a thread."""
        store, rows = patches.store, patches.rows
        self._job = ThreadPoolExecutor(1).submit(lambda: Reference.measure(store, rows, seed))

    def wait(self) -> None:
        """Wait for the measurement, if one was started, and store its result in `values`."""
        if self._job is not None:
            self.values = asdict(self._job.result())
