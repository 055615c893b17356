"""`histo predict` on a folder of slides by several processes."""

import pytest

from tests.compute.test_distributed import run_without_torchrun
from tests.slides.files import tissue_image, write_slide


@pytest.mark.slow
def test_two_processes_share_the_slides(histo, slides, tmp_path):
    write_slide(slides / "third.tif", tissue_image(1200, 1300, seed=2), 0.486)
    (slides / "broken.svs").write_bytes(b"no slide")
    line = ["predict", slides, "--device", "cpu"]
    _, stderr = run_without_torchrun(histo, *line, "--out", tmp_path / "two", code=4)  # a slide failed
    histo(*line, "--out", tmp_path / "one", code=4)
    assert "rank 1: [1 of 2] broken" in stderr  # each process has two of the four
    assert "\n[2 of 2] " in stderr
    table = (tmp_path / "two" / "slides.csv").read_text()
    assert table == (tmp_path / "one" / "slides.csv").read_text()
    assert table.count(",scored,") == 3
    for name in ("first", "second", "third"):
        first, second = (tmp_path / folder / name / "scores.csv" for folder in ("one", "two"))
        assert first.read_text() == second.read_text()
    _, stderr = run_without_torchrun(histo, *line, "--out", tmp_path / "two", code=4)
    assert "3 of 4 slides were finished before" in stderr
