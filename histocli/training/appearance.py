"""The appearance of the training patches, which a thread measures while the first epoch trains."""

from concurrent.futures import Future, ThreadPoolExecutor

from histocli.data.loaders import PatchLoader
from histocli.data.quality import Reference


class TrainingAppearance:
    """Measures the appearance of the training patches, for the checkpoints of a run.

    Args:
        patches: the training patches.
        seed: chooses the sample that is measured.

    Attributes:
        result: the measurement; None until `wait` was called.
    """

    def __init__(self, patches: PatchLoader, seed: int) -> None:
        self.result: Reference | None = None
        self._store, self._rows, self._seed = patches.store, patches.rows, seed
        self._job: Future[Reference] | None = None

    def start(self) -> None:
        """Start to measure a random sample of the patches on a thread, if this has not been done yet."""
        if self.result is None and self._job is None:
            self._job = ThreadPoolExecutor(1).submit(Reference.measure, self._store, self._rows, self._seed)

    def wait(self) -> None:
        """Wait for the measurement, and store it in `result`."""
        self.start()
        if self._job is not None:
            self.result = self._job.result()
