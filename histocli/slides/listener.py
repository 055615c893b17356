"""The listener of `histo predict` on whole slides."""

from histocli.listeners import CommandListener
from histocli.slides.detection import SlideFile
from histocli.slides.records import SlideRecord


class SlideListener(CommandListener):
    """Receives the messages and the progress of `predict_slides`; this base class ignores them.

    `on_total` and `on_progress` receive numbers of squares of the current slide.
    """

    def on_slide_start(self, slide: SlideFile, number: int, total: int) -> None:
        """Called before a slide is opened; `number` of `total` counts the slides of this process."""

    def on_slide_end(self, record: SlideRecord) -> None:
        """Called when a slide is finished or has failed."""
