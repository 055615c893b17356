"""Slides as files, and calls of `histo predict`, for the tests."""

import csv

import numpy as np
import tifffile


def write_slide(path, image, mpp=0.243, *, levels=(1,), tile=256, unit="CENTIMETER", per_unit=None, ome=False):
    """A lossless tiled TIFF of an RGB image, with levels that take every n-th pixel; without `mpp`, no resolution."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, ome=ome) as file:
        for number, step in enumerate(levels):
            options = {"subfiletype": 1} if number else {}
            if per_unit or (mpp and not ome):
                value = per_unit or 1e4 / (mpp * step)
                options |= {"resolution": (value, value), "resolutionunit": unit}
            if ome:
                options = {"metadata": {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp}}
            else:
                options["metadata"] = None
            shape = (tile, tile) if tile else None
            pixels = np.ascontiguousarray(image[::step, ::step])
            file.write(pixels, tile=shape, photometric="rgb", compression="zlib", **options)
    return path


def tissue_image(height, width, seed=0):
    """Pink noise on glass, in the middle of the image: what counts as tissue."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 242, np.uint8)
    inner = slice(height // 4, height - height // 4), slice(width // 4, width - width // 4)
    shape = image[inner].shape
    image[inner] = np.array([190, 110, 170]) + rng.integers(-25, 25, shape)
    return image


def write_aperio_slide(path, properties):
    """Write a slide of 1100x1100 pixels as Aperio does, with these properties such as "MPP = 0.5"; return its path."""
    description = f"Aperio Image Library v12\r\n1100x1100 [0,0 1100x1100] (256x256) JPEG/RGB Q=70|{properties}"
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    tifffile.imwrite(path, tissue_image(1100, 1100), description=description, **options)
    return path


def read_table(path):
    """Return the rows of a CSV file as dictionaries."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def predict(histo, *args, code=0):
    """Run `histo predict` on the CPU."""
    return histo("predict", "--device", "cpu", *args, code=code)
