"""Whole slides: find and read them, find the tissue, score a grid of patches, and write maps, tables and QuPath files.

`detection` is cheap to import; everything that opens a slide needs the extra `slides`.
"""
