"""Read TIFF images strictly: an image is either decoded correctly, or refused with the reason.

OpenCV ignores what libtiff reports about 8-bit images, and leaves black what cannot be decoded. Therefore the
compressed segments (strips and tiles) of a TIFF are decoded here one by one, and each must give exactly its number of
bytes. Layouts that are not assembled here (JPEG, CMYK, Lab ...) are decoded by OpenCV after their segments were
checked.
"""

import re
from typing import Any

import cv2
import numpy as np

from histocli.images import tiff_tags
from histocli.images.channels import GREY
from histocli.images.headers import check_jpeg
from histocli.images.intensity import Values
from histocli.images.jpeg import decode_jpeg
from histocli.images.sizes import ImageError, check_pixels
from histocli.images.tiff_codecs import CODEC_NAMES, check_segments
from histocli.images.tiff_layout import BLACK_IS_ZERO, PALETTE, RGB, WHITE_IS_ZERO, YCBCR, Layout
from histocli.images.tiff_pages import Page, read_following_pages
from histocli.images.tiff_segments import JPEG, UNPACK, decode_with_opencv

_CHANNEL_NAME = re.compile(r"""<Channel\b[^>]*?\sName=["']([^"']+)["']""")
_NUMBERED_CHANNEL = re.compile(r"(ch(annel)?|c)?[\s_:]*\d+(/\d+)?", re.IGNORECASE)  # says nothing of the colour
_IMAGES = re.compile(r"^images=(\d{1,9})\s*$", re.MULTILINE)  # the number of images, in ImageJ's descriptions
_BY_OPENCV = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, 5, YCBCR)  # 5 is CMYK; its colours in Lab are wrong
_INVERT_HINT = "save it with black as zero: replace each sample by the value of black minus the sample"
_ALPHA = (1, 2)  # values of ExtraSamples: associated and unassociated


def read_tiff(page: Page) -> tuple[Values, tuple[str, ...]]:
    """Read a TIFF's first page, or its red, green and blue pages, as (H,W,3) of any type; also return remarks on it.

    The type is uint8 unless the file holds other values.

    Raises:
        ImageError: the image is damaged, transparent, or of a kind that cannot be decoded right.
    """
    if page.next and page.read_value(tiff_tags.SUBFILE_TYPE, 0) & 1:
        raise ImageError("its first page is a reduced version of another page", "save the whole image as its only page")
    is_grey = (
        page.read_value(tiff_tags.SAMPLES_PER_PIXEL, 1) < 3 and page.read_value(tiff_tags.PHOTOMETRIC, RGB) != PALETTE
    )
    if not page.next:
        if is_grey and (hidden := _IMAGES.search(page.description)) and int(hidden[1]) > 1:
            raise _make_stack_error(int(hidden[1]))  # ImageJ writes large stacks without a page for each image
        return _read_page(page), (GREY,) if is_grey else ()
    following = read_following_pages(page)
    if not is_grey:
        return _read_page(page), ("only the first of several pages was read",)
    has_one_size = all(other.size == page.size for other in following)
    if len(following) == 2 and has_one_size and _has_channel_pages(page.description):
        _check_channel_names(page.description)
        channels = [_read_page(channel)[..., :1] for channel in (page, *following)]
        return np.concatenate(channels, 2), ("three pages were combined to RGB",)
    raise _make_stack_error(1 + len(following))


def _make_stack_error(count: int) -> ImageError:
    return ImageError(f"the image is a stack of {count} grey pages", "save it in RGB, as a single page")


def _has_channel_pages(description: str) -> bool:
    """Return whether a description says that three pages are red, green and blue, and not planes of a volume."""
    return "channels=3" in description.split() or ('SizeC="3"' in description and 'SizeZ="1"' in description)


def _check_channel_names(description: str) -> None:
    """Raise `ImageError` if OME names three channels that are not red, green and blue, in this order."""
    names = [name.strip() for name in _CHANNEL_NAME.findall(description)]
    is_rgb = [name[:1].lower() for name in names] == ["r", "g", "b"]
    if names and not is_rgb and not all(_NUMBERED_CHANNEL.fullmatch(name) for name in names):
        raise ImageError(
            f"its pages are the channels {', '.join(names)}, and not red, green and blue",
            "save it in RGB, as a single page",
        )


def _read_page(page: Page) -> Values:
    """Decode a page with the module or the library that can decode it exactly."""
    check_pixels(*page.size)
    layout = Layout(page)
    if layout.compression not in UNPACK and layout.compression != JPEG:
        return _read_by_tifffile(layout)
    if layout.compression == JPEG:
        _check_jpeg_segments(layout)
        return _read_by_opencv(page)
    segments = layout.read_segments()
    if not layout.is_assembled_here:
        if layout.photometric not in _BY_OPENCV:
            raise ImageError(
                f"the image is in a colour space (number {layout.photometric}) that is not read", "save it in RGB"
            )
        if layout.is_planar and layout.sample_format == 3:  # OpenCV leaves some of the pixels unset
            raise ImageError("it has fractions in separate planes with a predictor", "save it without a predictor")
        if layout.photometric == WHITE_IS_ZERO and layout.bits > 8:  # OpenCV inverts images of 8 bits only
            raise ImageError(f"white is zero in it, and its samples have {layout.bits} bits", _INVERT_HINT)
        return _read_by_opencv(page)
    return _convert_to_rgb(layout, layout.assemble(segments))


def _check_jpeg_segments(layout: Layout) -> None:
    """Check each JPEG in a TIFF as a JPEG file: its markers up to the end, and that it can be decoded at its size."""
    tables = bytes(layout.page.read_values(tiff_tags.JPEG_TABLES))
    start = tables[:-2] if tables.endswith(b"\xff\xd9") else b"\xff\xd8"
    for at, length in layout.find_segments():
        stream = start + layout.page.data[at : at + length].removeprefix(b"\xff\xd8")
        size = check_jpeg(stream)
        image: Values | None = decode_jpeg(stream)
        image = decode_with_opencv(stream, size.width * size.height) if image is None else image
        if image is None or image.shape[:2] != (size.height, size.width):
            raise ImageError("the image is damaged: a JPEG in it cannot be decoded")
        if size.width < min(layout.segment_width, layout.width):
            raise ImageError("the image is damaged: a JPEG in it is too small")


def _read_by_opencv(page: Page) -> Values:
    image = decode_with_opencv(page.data, page.size.width * page.size.height, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if image is None:
        raise ImageError("this kind of TIFF cannot be decoded", "save it as an RGB TIFF of 8 bits, or as PNG")
    if sorted(image.shape[:2]) != sorted(page.size):  # OpenCV turns it upright
        raise ImageError("the image is damaged: OpenCV reads it in another size")
    return np.ascontiguousarray(image[..., ::-1])  # `cvtColor` refuses float64


def _read_by_tifffile(layout: Layout) -> Values:
    """Read a page whose compression only tifffile with imagecodecs unpacks."""
    check_segments(layout)
    name = CODEC_NAMES[layout.compression]
    try:
        import imagecodecs  # noqa: F401
        from tifffile import TiffFile
    except ModuleNotFoundError:
        raise ImageError(
            f"its compression ({name}) needs the packages tifffile and imagecodecs",
            "pip install 'histocli[tiff]', or save it as PNG",
        ) from None
    from io import BytesIO

    try:
        with TiffFile(BytesIO(layout.page.data)) as file:
            image = np.asarray(file.pages[0].asarray())
    except Exception as error:  # each codec raises its own exceptions
        raise ImageError(f"the image is damaged, or its compression ({name}) is of another kind: {error}") from error
    if layout.is_planar and image.ndim == 3:
        image = np.moveaxis(image, 0, 2)
    if image.dtype == bool:  # one bit for each pixel, as in scanned pages
        image = image.astype(np.uint8) * 255
    if image.shape[:2] != (layout.height, layout.width):
        raise ImageError(
            f"the image is damaged: tifffile reads it as {image.shape}, not {layout.width} x {layout.height}"
        )
    image = image.reshape(layout.height, layout.width, -1)
    if layout.photometric == YCBCR and image.shape[2] == 3:  # the codec has converted it
        layout.photometric = RGB
    if layout.photometric not in (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE):
        raise ImageError(f"the image has the colour space {layout.photometric}", "save it in RGB")
    return _convert_to_rgb(layout, image)


def _convert_to_rgb(layout: Layout, image: Values) -> Values:
    """Return the samples (H,W,S) of a page as RGB (H,W,3), upright; an alpha channel must be opaque."""
    extra_samples = layout.page.read_values(tiff_tags.EXTRA_SAMPLES)
    colours = 3 if layout.photometric == RGB else 1
    if layout.photometric == BLACK_IS_ZERO and image.shape[2] == 3 and not extra_samples:
        colours = 3  # three grey samples are red, green and blue in files of some microscopes
    if image.shape[2] < colours:
        raise ImageError(f"the image is in RGB, but has {image.shape[2]} samples")
    for i, meaning in enumerate(extra_samples, colours):
        if meaning in _ALPHA and i < image.shape[2] and image[..., i].min() < _find_white(image.dtype):
            raise ImageError("it is a TIFF with transparent pixels", "save it without its alpha channel")
    if colours == 1 and image.shape[2] > 2 and layout.photometric != PALETTE:
        raise ImageError(
            f"the image has {image.shape[2]} channels, but does not say that they are red, green and blue",
            "save it in RGB",
        )
    image = image[..., :colours]
    if layout.photometric == PALETTE:
        image = _look_up(layout.page, image[..., 0])
    elif layout.photometric == WHITE_IS_ZERO:
        image = _invert(image)
    image = np.repeat(image, 3, 2) if image.shape[2] == 1 else image
    return _turn_upright(image, layout.page.read_value(tiff_tags.ORIENTATION, 1))


def _invert(image: Values) -> Values:
    """Return the samples of an image in which white is 0 so that black is 0.

    Raises:
        ImageError: it is not clear which value is black. Samples of 10, 12 or 14 bits in a type of 16 would all become
            nearly white.
    """
    if image.dtype.kind != "u":
        raise ImageError("white is zero in it, and its samples are not unsigned", "save it in RGB")
    black = _find_white(image.dtype)
    if image.dtype.itemsize > 1 and image.max() <= black // 4:
        raise ImageError(
            f"white is zero in it, and its samples go up to {image.max():,} only: it is not clear which value is black",
            _INVERT_HINT,
        )
    inverted: Values = black - image
    return inverted


def _find_white(dtype: "np.dtype[Any]") -> Any:
    return dtype.type(1) if dtype.kind == "f" else dtype.type(np.iinfo(dtype).max)


def _look_up(page: Page, image: Values) -> Values:
    """Replace the numbers of a palette image by their colours."""
    colours = np.array(page.read_values(tiff_tags.COLOUR_MAP), np.uint16)
    if len(colours) != 3 << page.read_value(tiff_tags.BITS_PER_SAMPLE, 8) or image.dtype.kind != "u":
        raise ImageError("the image is damaged: its palette is incomplete")
    table = colours.reshape(3, -1).T
    return (table >> 8 if table.max() > 255 else table).astype(np.uint8)[image]


def _turn_upright(image: Values, orientation: int) -> Values:
    """Turn an image as its Orientation tag says."""
    if orientation == 1:
        return image
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return image[::down, ::right]
