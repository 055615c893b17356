"""Decode the files of images: each one correctly, or refused with the reason."""

import logging
import os

# OpenCV refuses an image whose header announces more pixels than this, before it decodes anything. It reads the limit
# once, when it is loaded: every module of this package is imported after these lines.
MAX_PIXELS = 1 << 26
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

# Without a handler, Python prints the warnings of tifffile about damaged files. The error of histo names such a file.
logging.getLogger("tifffile").addHandler(logging.NullHandler())
