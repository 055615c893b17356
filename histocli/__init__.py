"""histo: from raw H&E lymph-node patches to an honestly evaluated classifier of metastatic cancer."""

__version__ = "0.2.0.dev0"
