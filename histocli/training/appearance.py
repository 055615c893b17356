"""The appearance of the training patches, which a thread measures while the first epoch trains."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from histocli.data.loaders import PatchLoader
from histocli.data.quality import Reference


class TrainingAppearance:
    """Measures the appearance of the training patches, for the checkpoints of a run.

    Args:
        patches: the training patches.
        seed: chooses the sample that is measured.

    Attributes:
        values: the fields of `Reference`; empty until `wait` was called.
    """

    def __init__(self, patches: PatchLoader, seed: int) -> None:
        self.values: dict[str, Any] = {}
        self._store, self._rows, self._seed = patches.store, patches.rows, seed
        self._job: Future[Reference] | None = None

    def start(self) -> None:
        """Start to measure a random sample of the patches on a thread, if this has not been done yet."""
        if not self.values and self._job is None:
            self._job = ThreadPoolExecutor(1).submit(Reference.measure, self._store, self._rows, self._seed)

    def wait(self) -> None:
        """Wait for the measurement, and store its result in `values`."""
        self.start()
        if self._job is not None:
            self.values = asdict(self._job.result())
