"""Image files that announce, or unpack to, far more than they hold: a seeded stream of variants."""

import struct
import zlib
from functools import cache

import cv2
import numpy as np

SIDES = [(96, 96), (2048, 2048), (8192, 8191), (16384, 16384), (65535, 65535), (2**31 - 1, 1), (1, 2**31 - 1)]
HEADERS = {  # of formats whose headers give a size; without pixels
    "ppm": lambda w, h: b"P6\n%d %d\n255\n" % (w, h),
    "ppm of 16 bits": lambda w, h: b"P6\n%d %d\n65535\n" % (w, h),
    "pbm": lambda w, h: b"P4\n%d %d\n" % (w, h),
    "pam": lambda w, h: b"P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" % (w, h),
    "pfm": lambda w, h: b"PF\n%d %d\n-1.0\n" % (w, h),
    "hdr": lambda w, h: b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n" % (h, w),
    "sun": lambda w, h: struct.pack(">8I", 0x59A66A95, w, h, 24, 0, 2, 0, 0) + b"\x80\xff\0" * 50,
    "tga": lambda w, h: struct.pack("<3B2HB4H2B", 0, 0, 10, 0, 0, 0, 0, 0, w % 65536, h % 65536, 24, 0) + b"\xff\0\0\0",
    "sgi": lambda w, h: struct.pack(">H2B4H", 474, 1, 1, 3, w % 65536, h % 65536, 3) + bytes(500),
    "qoi": lambda w, h: b"qoif" + struct.pack(">2I2B", w, h, 3, 0) + b"\xfd" * 100,
    "bmp": lambda w, h: (
        b"BM" + struct.pack("<I2HI", 0, 0, 0, 54) + struct.pack("<I2i2H6I", 40, w, h, 1, 8, 1, *[0] * 5)
    ),
    "gif": lambda w, h: b"GIF89a" + struct.pack("<2H3B", w % 65536, h % 65536, 0, 0, 0) + b"\x3b",
}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    rows = zlib.compress((b"\0" + bytes(3 * width)) * height, 9)
    header = chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + b"".join([header, *chunks, chunk(b"IDAT", rows), chunk(b"IEND", b"")])


@cache
def black(suffix, side, *options):
    """A black image, of which the file is small."""
    return cv2.imencode(suffix, np.zeros((side, side, 3), np.uint8), options)[1].tobytes()


@cache
def zeros(length):
    """Zeros, compressed as far as possible."""
    return zlib.compress(bytes(length), 9)


def header_alone(rng):
    return HEADERS[rng.choice(list(HEADERS))](*rng.choice(SIDES))


def texts(rng):
    """A thousand compressed texts, each as long as libpng allows."""
    text = zeros(7_900_000)
    kind = rng.choice([chunk(b"zTXt", b"k\0\0" + text), chunk(b"iTXt", b"k\0\1\0\0\0" + text)])
    return png(96, 96, kind * rng.choice([100, 1000]), chunk(b"iCCP", b"k\0\0" + text))


def scans(rng):
    """A JPEG whose last scan comes again and again: each costs the time of a whole image."""
    data = black(".jpg", 2048, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:at] + data[at:end] * rng.choice([101, 5000]) + data[end:]


def precincts(rng):
    """A JPEG 2000 with precincts of few pixels, many layers or many tiles."""
    data = black(".jp2", 2048)
    data = data[data.index(b"\xff\x4f\xff\x51") :]
    at = data.index(b"\xff\x52")
    end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
    coding = bytearray(data[at + 4 : end])
    kind = rng.choice(["precincts", "layers", "tiles"])
    if kind == "tiles":
        return data[:24] + struct.pack(">2I", 9, 9) + data[32:]
    if kind == "layers":
        coding[2:4] = b"\xff\xff"
    coding[0] |= 1
    coding[10:] = bytes([0x77 if kind == "layers" else rng.choice([0x00, 0x11, 0x22, 0x33])] * (coding[5] + 1))
    return data[:at] + b"\xff\x52" + struct.pack(">H", len(coding) + 2) + bytes(coding) + data[end:]


def avif(rng):
    """A large AVIF; or one whose box gives a small size, and its stream a large one."""
    data = black(".avif", 4096, cv2.IMWRITE_AVIF_SPEED, 10)
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">2I", *rng.choice([(4096, 4096), (96, 96), (1 << 30, 1 << 30)])) + data[at + 8 :]


def lerc():
    return b"Lerc2 " + struct.pack("<2I4i", 4, 0, 30_000, 30_000, 1, 900_000_000) + bytes(100)


def in_tiff(rng):
    """A TIFF of 96x96 whose only strip is an image of many more pixels, or unpacks to many more bytes."""
    kinds = {50001: black(".webp", 4096), 34712: black(".jp2", 4096), 34933: black(".png", 4096), 34887: lerc()}
    kinds |= {
        50002: b"\xff\x0a" + (0b11 << 1 | (1 << 30) - 1 << 3).to_bytes(12, "little"),
        22610: b"II\xbc\1" + bytes(90),
    }
    kinds |= {8: zeros(200 << 20), 7: black(".jpg", 4096), 6: black(".jpg", 4096)}
    compression = rng.choice(list(kinds))
    strip, begin = kinds[compression], 8 + 2 + 12 * 9 + 4 + 6
    values = [(256, 96), (257, 96), (258, begin - 6), (259, compression), (262, 2), (273, begin), (277, 3), (278, 96)]
    entries = [struct.pack("<2H2I", tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, n) for tag, n in values]
    entries += [struct.pack("<2H2I", 279, 4, 1, len(strip))]
    return b"II*\0" + struct.pack("<IH", 8, 9) + b"".join(entries) + bytes(4) + struct.pack("<3H", 8, 8, 8) + strip


def sound(rng):
    """A patch with everything that is taken out of others."""
    suffix = rng.choice([".png", ".jpg", ".jp2", ".webp", ".avif", ".tif", ".bmp"])
    return rng.choice([black(suffix, 96), png(96, 96, chunk(b"tEXt", b"k\0v"), chunk(b"iCCP", b"k\0\0" + b"x"))])


VARIANTS = [header_alone, header_alone, texts, scans, precincts, avif, in_tiff, in_tiff, sound]
ALWAYS = {"header_alone", "scans", "precincts", "avif", "in_tiff"}  # which are never read


def write(rng, path):
    """Write a variant to `path`; return its name and whether it is sound."""
    variant = rng.choice(VARIANTS)
    data = bytearray(variant(rng))
    is_damaged = rng.random() < 0.2
    for _ in range(rng.randint(1, 4) if is_damaged else 0):
        data[rng.randrange(min(len(data), 500))] = rng.randrange(256)
    path.write_bytes(data)
    name = variant.__name__
    return f"{name} damaged" if is_damaged else name, variant in (sound, texts) and not is_damaged
