"""Draw the pictures of the report in docs/img/ from a page of `histo report --maps`.

`histo demo --slides --keep ws` makes such a page: `python -m tools.report_pictures ws/plots/histonet-1-report.html`.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tools.browser import open_browser

_IMAGES = Path(__file__).parents[1] / "docs" / "img"
_LOAD_IMAGES = "Promise.all(Array.from(document.images, (one) => { one.loading = 'eager'; return one.decode(); }))"


class Picture(NamedTuple):
    """A part of the page: its file, the element at its top, and its size in pixels."""

    name: str
    selector: str
    width: int
    height: int
    is_dark: bool = False


PICTURES = (
    Picture("report-light.png", "body", 1200, 1300),
    Picture("report-dark.png", "#run-1-1", 1200, 840, is_dark=True),
    Picture("report-narrow.png", "#run-1-1", 400, 1155),
    Picture("report-slides.png", "#slides", 1200, 1150),
)


def main(page: Path) -> None:
    """Write the pictures of a page into docs/img/."""
    with TemporaryDirectory() as profile, open_browser(Path(profile)) as browser:
        for picture in PICTURES:
            browser.open(page.absolute(), width=picture.width, height=picture.height, is_dark=picture.is_dark)
            browser.evaluate(f"{_LOAD_IMAGES}.then(() => null)")
            browser.evaluate(f"document.querySelector('{picture.selector}').scrollIntoView()")
            browser.screenshot(_IMAGES / picture.name)
            print(_IMAGES / picture.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
