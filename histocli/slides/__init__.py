"""Whole slides: find and read them, find the tissue, score a grid of patches, and write maps, tables and QuPath files.

`detection` is cheap to import; everything that opens a slide needs the extra `slides`.
"""

from histocli.config import PATCH_MPP

__all__ = ["PATCH_MPP"]
