"""Slides as files, and calls of `histo predict`, for the tests."""

import json

import numpy as np
import tifffile

from histocli.slides.records import FinishedSlide


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


def predict(histo, *args, code=0):
    """Run `histo predict` on the CPU."""
    return histo("predict", "--device", "cpu", *args, code=code)


def download(histo, slides, annotations, *args, **options):
    """Run `histo download --source slides`."""
    return histo("download", "--source", "slides", "--from", slides, "--annotations", annotations, *args, **options)


def make_ring(left, top, width, height=None):
    """The closed outline of a rectangle; of a square without `height`."""
    right, bottom = left + width, top + (height or width)
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def make_area(*rings, **properties):
    """An area as a feature of GeoJSON: its outline, and its holes."""
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": rings}, "properties": properties}


def write_features(path, *features):
    """Write a GeoJSON file; return its path."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def write_asap(path, *annotations, groups=""):
    """Write annotations (group, type, points) as ASAP does; return the path."""
    path.parent.mkdir(exist_ok=True)
    body = ""
    for group, kind, points in annotations:
        corners = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
        body += f'<Annotation Type="{kind}" PartOfGroup="{group}"><Coordinates>{corners}</Coordinates></Annotation>'
    groups = f"<AnnotationGroups>{groups}</AnnotationGroups>"
    path.write_text(f"<ASAP_Annotations><Annotations>{body}</Annotations>{groups}</ASAP_Annotations>")
    return path


def make_finished(path, record, **fields):
    """The record of a map of one square, with other values of `fields`."""
    values = {"fingerprint": "", "threshold": 0.5, "step": 96, "width": 96, "height": 96, "mpp_y": None}
    values |= {"scored_with": "", "origin": (0, 0), "file_state": (0, 0)}
    manifests = "; " * record.checkpoint.count("; ")  # of each checkpoint, none is known
    return FinishedSlide(path=str(path), record=record, **values | {"manifests": manifests} | fields)
