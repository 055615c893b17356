"""Decode image files of any format and size to patches (96,96,3) uint8 RGB."""

from dataclasses import dataclass

import cv2
import numpy as np

from histocli.config import PATCH_MPP
from histocli.enums import Resize
from histocli.errors import HistoError
from histocli.images import tiff_tags
from histocli.images.channels import DEEP, GREY, TRANSPARENT, has_exif, is_grey, may_be_transparent, read_av1_flags
from histocli.images.enlarging import enlarge_centre
from histocli.images.headers import JPEG_START, PNG, check_header, is_animated, remove_unused_chunks, shorten_webp
from histocli.images.intensity import Ranges, Values, to_uint8
from histocli.images.jpeg import decode_jpeg
from histocli.images.jpeg2000 import has_8_bits
from histocli.images.pillow_formats import FIRST_FRAME, decode_by_pillow
from histocli.images.pnm import is_pnm, read_pnm
from histocli.images.remarks import Remarks
from histocli.images.sizes import ImageError, Size
from histocli.images.tiff import read_tiff
from histocli.images.tiff_pages import count_levels, is_tiff, read_first_page
from histocli.images.tiff_segments import decode_with_opencv
from histocli.patch import PATCH_SIDE, Pixels

cv2.setNumThreads(1)  # patches are small: several threads decode one patch each
_set_log_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel  # depends on OpenCV's version
_set_log_level(0)  # silent: the error of histo names the unreadable file

LARGEST_SIDE = 2048  # pixels on a side of an image that is scored as one patch; a larger one is a slide
CUT, PADDED, CUT_AND_PADDED, SCALED = "cut to the centre", "padded", "cut and padded", "scaled"
_SAME_MPP = 0.1  # relative difference of two resolutions that are about the same
RESIZED = (CUT, PADDED, CUT_AND_PADDED, SCALED)  # remarks on images that were not 96x96


@dataclass(frozen=True, slots=True)
class Preparation:
    """How an image becomes a patch.

    Attributes:
        resize: the way to make its size 96x96.
        mpp: its micrometres per pixel; it is resampled to `PATCH_MPP` first. None: that of the patches.
        ranges: which value is white in the images of its set that are not uint8. None: it has no set, and white is
            inferred from each image alone.
    """

    resize: Resize = Resize.CROP
    mpp: float | None = None
    ranges: Ranges | None = None


_DEFAULT_PREPARATION = Preparation()


def decode(data: bytes, name: str, remarks: Remarks | None = None, how: Preparation | None = None) -> Pixels:
    """Decode an image file's bytes to RGB uint8 (H,W,3); `name` is for the error.

    Grey, palette, CMYK and 16-bit images are converted, an alpha channel is dropped, an EXIF rotation is applied; if
    there are several frames or pages, the first is decoded. Three pages that a file declares to be channels are
    combined. `remarks` receives guesses, and says whether the image is grey or has transparent pixels. Without `how`,
    the image may be a whole slide. `how` is given if the image becomes a patch: it has the value of white in the set of
    images, and a TIFF that says another resolution gets a remark.

    Raises:
        HistoError: it is not an image that can be read, is truncated or damaged, is larger than `MAX_PIXELS`, is a TIFF
            with transparent pixels, or has ambiguous values; or, if `how` is given, it is a whole slide.
    """
    try:
        image, found = _decode(data, how)
        pixels, remark = to_uint8(image, how.ranges if how else None)
    except ImageError as error:
        raise HistoError(f"{name}: {error}", error.hint) from error
    if remarks is not None:
        for what in filter(None, (*found, remark)):
            remarks.add(what, name)
    return np.ascontiguousarray(pixels)


def _decode(data: bytes, how: Preparation | None) -> tuple[Values, tuple[str, ...]]:
    """Return an image (H,W,3) with the values of the file, and remarks on it."""
    if not data:
        raise ImageError("the file is empty")
    if is_tiff(data):
        page = read_first_page(data)
        if how is None:
            return read_tiff(page)
        refuse_slide(page.size, count_levels(page) if max(page.size) > PATCH_SIDE else 1)
        values, found = read_tiff(page)
        mpp = how.mpp or PATCH_MPP
        if how.resize is not Resize.SCALE and page.mpp is not None and abs(page.mpp / mpp - 1) > _SAME_MPP:
            found = (*found, f"the file says {page.mpp:.3g} um per pixel, not {mpp:g}")
        return values, found
    if is_pnm(data):
        return read_pnm(data), (GREY,) if data.startswith(b"P5") else ()
    size = check_header(data)
    if size is not None and how is not None:
        refuse_slide(size, 1)
    if data.startswith(JPEG_START) and (jpeg := decode_jpeg(data)) is not None:
        return jpeg, (GREY,) if is_grey(data) else ()
    found = (FIRST_FRAME,) if is_animated(data) else ()
    if data.startswith(b"GIF8"):
        values, remarks = decode_by_pillow(data)
        return values, (*found, *remarks)
    pixels = size.width * size.height if size else 0
    image, is_transparent = _decode_with_alpha(remove_unused_chunks(data), pixels)
    if image is None:
        return decode_by_pillow(data)
    if (shortened := shorten_webp(data)) and decode_with_opencv(shortened, pixels, cv2.IMREAD_COLOR) is not None:
        raise ImageError("the image is damaged: its stream ends too early")
    more = {GREY: is_grey(data), TRANSPARENT: is_transparent}
    return image, (*found, *(remark for remark, applies in more.items() if applies))


def _decode_with_alpha(data: bytes, pixels: int) -> tuple[Values | None, bool]:
    """Decode an image to RGB (H,W,3) with OpenCV, None if it cannot; also return whether pixels are transparent."""
    is_transparent = False
    if may_be_transparent(data):
        image = decode_with_opencv(data, pixels, cv2.IMREAD_UNCHANGED)
        if image is not None and image.ndim == 3 and image.shape[2] == 4:
            is_transparent = bool(image[..., 3].min() < (255 if image.dtype == np.uint8 else 65535))
            if not has_exif(data):  # with IMREAD_UNCHANGED, OpenCV does not turn the image as Exif data say
                return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB), is_transparent
    image = decode_with_opencv(data, pixels, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image), is_transparent


def is_8_bit(data: bytes) -> bool:
    """Return whether the header says that the values have at most 8 bits; `data` may be the first bytes only.

    It returns False if the format is not known here, or if the bytes are too few.
    """
    if is_tiff(data):
        try:
            page = read_first_page(data)
            bits = page.read_values(tiff_tags.BITS_PER_SAMPLE) or (1,)
            return max(bits) <= 8 and page.read_value(tiff_tags.SAMPLE_FORMAT, 1) == 1
        except ImageError:
            return False
    if data.startswith(PNG):
        return len(data) > 24 and data[24] <= 8
    if data[4:8] == b"ftyp":  # AVIF: a bit of each av1C box says whether the values have more than 8 bits
        flags = read_av1_flags(data)
        return bool(flags) and all(flag & DEEP == 0 for flag in flags)
    is_webp = data.startswith(b"RIFF") and data[8:12] == b"WEBP"
    return is_webp or data.startswith((JPEG_START, b"GIF8", b"BM")) or has_8_bits(data)


def read_values(data: bytes) -> Values | None:
    """Return the unconverted values (H,W,3) of an image that may be a patch; None if it is unreadable."""
    try:
        return _decode(data, Preparation(Resize.SCALE))[0]  # which does not read the resolution
    except ImageError:
        return None


def refuse_slide(size: Size, levels: int) -> None:
    """Refuse an image that is a whole slide and not a patch: a pyramid, or one with a side longer than `LARGEST_SIDE`.

    Raises:
        ImageError: it is one.
    """
    if levels > 1 or max(size) > LARGEST_SIDE:
        what = f"a pyramid of {levels} levels" if levels > 1 else f"over {LARGEST_SIDE:,} pixels on a side"
        raise ImageError(
            f"a whole slide of {size[0]:,} x {size[1]:,} pixels ({what}); a patch has {PATCH_SIDE} x {PATCH_SIDE}",
            f"cut it into patches of {PATCH_SIDE} x {PATCH_SIDE} pixels at {PATCH_MPP} um per pixel",
        )


def fit(image: Pixels, resize: Resize = Resize.CROP) -> Pixels:
    """Crop or scale an RGB image (H,W,3) of any size to (96,96,3).

    `crop` cuts the centre out and reflects borders where the image is smaller; `scale` resamples the largest
    central square.
    """
    height, width = image.shape[:2]
    if (height, width) == (PATCH_SIDE, PATCH_SIDE):
        return image
    side = min(height, width) if resize is Resize.SCALE else PATCH_SIDE
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    image = image[top : top + side, left : left + side]
    if resize is Resize.SCALE:
        method = cv2.INTER_AREA if side > PATCH_SIDE else cv2.INTER_CUBIC
        return cv2.resize(image, (PATCH_SIDE, PATCH_SIDE), interpolation=method)  # type: ignore[return-value]
    down, right = PATCH_SIDE - image.shape[0], PATCH_SIDE - image.shape[1]
    borders = (down // 2, down - down // 2, right // 2, right - right // 2)
    return np.ascontiguousarray(cv2.copyMakeBorder(image, *borders, cv2.BORDER_REFLECT), dtype=np.uint8)


def _resample(image: Pixels, mpp: float, size: Size) -> Pixels:
    """Resample an image (H,W,3) of `mpp` micrometres per pixel to `size`, its size at `PATCH_MPP`.

    If it becomes larger than an image may be, only its centre is computed: `--mpp` and `--resize scale`, which uses
    more, exclude each other.
    """
    if max(size) > LARGEST_SIDE:
        return enlarge_centre(image, size)
    method = cv2.INTER_AREA if mpp < PATCH_MPP else cv2.INTER_CUBIC
    return cv2.resize(image, size, interpolation=method)  # type: ignore[return-value]


def prepare(image: Pixels, how: Preparation, name: str, remarks: Remarks | None = None) -> Pixels:
    """Turn an RGB image (H,W,3) into a patch (96,96,3), and add changes of its size to `remarks`.

    Raises:
        HistoError: it is a whole slide.
    """
    if image.shape == (PATCH_SIDE, PATCH_SIDE, 3) and how.mpp is None:
        return image
    size = resampled = Size(image.shape[1], image.shape[0])
    try:
        refuse_slide(size, 1)
    except ImageError as error:
        raise HistoError(f"{name}: {error}", error.hint) from error
    if how.mpp is not None and how.mpp != PATCH_MPP:
        resampled = Size(*(max(1, round(side * how.mpp / PATCH_MPP)) for side in size))
        image = _resample(image, how.mpp, resampled)
    if remarks is not None and (remark := _describe_fit(resampled, how.resize)):
        remarks.add(remark, f"{name}, {size.width:,} x {size.height:,} pixels", size=size)
    return fit(image, how.resize)


def _describe_fit(size: Size, resize: Resize) -> str:
    """Return the change that `fit` makes to an image of this size; "" if there is none."""
    if size == (PATCH_SIDE, PATCH_SIDE):
        return ""
    if resize is Resize.SCALE:
        return SCALED
    if min(size) >= PATCH_SIDE:
        return CUT
    return PADDED if max(size) <= PATCH_SIDE else CUT_AND_PADDED


def decode_patch(
    data: bytes, name: str, how: Preparation = _DEFAULT_PREPARATION, remarks: Remarks | None = None
) -> Pixels:
    """Decode an image file's bytes to a patch (96,96,3) uint8 RGB; raises as `decode`, also for a whole slide."""
    return prepare(decode(data, name, remarks, how), how, name, remarks)
