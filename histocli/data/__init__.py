"""From sources of patches to batches on a device."""

import os

# OpenCV refuses a header that promises more pixels than this before it decodes anything. It reads the limit once, when
# it is loaded, which every module below this package does after these lines.
MAX_PIXELS = 1 << 26
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
