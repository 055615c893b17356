"""Slides and annotations from anyone: nothing outside them is read, and they crash or hang nothing."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile

from histocli.errors import HistoError
from histocli.slides.reading import open_slide
from tests.cli import REPOSITORY
from tests.slides.files import tissue_image, write_slide

pytestmark = pytest.mark.attack

OPEN = """
import sys
from pathlib import Path
from histocli.errors import HistoError
from histocli.slides.reading import open_slide
try:
    with open_slide(Path(sys.argv[1])) as slide:
        print(len(slide.levels), slide.read(0, 0, 0, slide.width, slide.height).max())
except HistoError as error:
    print("refused:", error)
"""
CHAIN = '<!DOCTYPE OME [<!ENTITY a0 "x">' + "".join(f'<!ENTITY a{i} "&a{i - 1};">' for i in range(1, 60_000)) + "]>"
OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">{}</OME>'
PIXELS = (
    '<Image><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="300" SizeY="300" SizeC="3" SizeZ="2" SizeT="1" '
    'PhysicalSizeX="0.25"><Channel SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"><UUID FileName="{}">'
    "urn:uuid:2</UUID></TiffData></Pixels></Image>"
)


def open_in_child(path):
    """Open a slide in a process of its own, which a damaged file may crash or stop."""
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_ome(path, description):
    with tifffile.TiffWriter(path) as file:
        pixels = np.full((300, 300, 3), 9, np.uint8)
        file.write(pixels, photometric="rgb", metadata=None, description=description, tile=(128, 128))
    return path


@pytest.mark.parametrize("name", ["pipe", "other.tif", "../other.tif", "/dev/zero"])
def test_files_in_the_metadata_of_a_slide_are_not_opened(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    for place in (tmp_path, tmp_path / "folder"):
        tifffile.imwrite(place / "other.tif", np.full((300, 300, 3), 200, np.uint8), photometric="rgb")
    path = write_ome(tmp_path / "folder" / "slide.tif", OME.format(PIXELS.format(name)))
    assert open_in_child(path) == "1 9\n"


def test_entities_in_the_metadata_of_a_slide_are_not_expanded(tmp_path):
    description = CHAIN + OME.format("&a59999;")
    said = open_in_child(write_ome(tmp_path / "slide.tif", description))
    assert "refused:" in said
    assert "document type definition" in said


def test_the_levels_of_an_ome_slide_are_its_subifds(tmp_path):
    image, path = tissue_image(1200, 900), tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        file.write(image, subifds=2, tile=(256, 256), photometric="rgb", metadata=metadata)
        for step in (2, 4):
            file.write(np.ascontiguousarray(image[::step, ::step]), subfiletype=1, tile=(256, 256), photometric="rgb")
        file.write(image[:200, :400], photometric="rgb", metadata={"axes": "YXS", "Name": "label"})
    with open_slide(path) as slide:
        assert [(one.width, one.height, one.downsample) for one in slide.levels] == [
            (900, 1200, 1),
            (450, 600, 2),
            (225, 300, 4),
        ]
        assert slide.mpp == (0.25, 0.25)
        assert np.array_equal(slide.read(2, 10, 20, 100, 90), image[::4, ::4][20:110, 10:110])


def test_a_slide_in_one_enormous_part_is_refused(tmp_path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        shape = (70_000, 20_000, 3)
        file.write(
            iter([bytes(10)]), shape=shape, dtype="uint8", photometric="rgb", compression="zlib", rowsperstrip=shape[0]
        )
    with pytest.raises(HistoError, match=r"pixels in tiles or strips of 1,400,000,000"):
        open_slide(path)


def test_an_ordinary_ome_slide_is_read(tmp_path):
    image = tissue_image(500, 600)
    with open_slide(write_slide(tmp_path / "x.ome.tif", image, 0.5, ome=True)) as slide:
        assert np.array_equal(slide.read(0, 0, 0, 600, 500), image)
        assert slide.mpp == (0.5, 0.5)
