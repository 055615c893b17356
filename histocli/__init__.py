"""histo: from raw H&E lymph-node patches to an honestly evaluated classifier of metastatic cancer."""

__version__ = "0.1.0"
