"""Undo the filters of HDF5 chunks: gzip, LZF and the checksum Fletcher-32, with bounded memory."""

import zlib

import numpy as np


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Unpack a chunk of gzip to at most `limit` bytes."""
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(data, limit)
    if not unpacker.eof:
        raise ValueError("a chunk is cut off, or unpacks to more than its size")
    return unpacked


def unpack_lzf(data: bytes, limit: int) -> bytes:
    """Unpack a chunk of LZF to at most `limit` bytes.

    HDF5 does not compare the length of what it unpacks with that of the chunk: the rest would be what is in its memory.
    """
    unpacked, at, end = bytearray(), 0, len(data)
    try:
        while at < end and len(unpacked) <= limit:
            code, at = data[at], at + 1
            if code < 32:  # literal bytes
                unpacked += data[at : at + code + 1]
                at += code + 1
                continue
            length = (code >> 5) + 2
            if length == 9:
                length, at = length + data[at], at + 1
            distance, at = ((code & 31) << 8 | data[at]) + 1, at + 1
            begin = len(unpacked) - distance
            if begin < 0:
                raise ValueError("a chunk is damaged: it repeats bytes before its start")
            part = unpacked[begin : begin + length]
            unpacked += part if len(part) == length else (part * (length // distance + 1))[:length]
    except IndexError:
        at = end + 1
    if at != end:
        raise ValueError("a chunk is cut off, or unpacks to more than its size")
    return bytes(unpacked)


def check_fletcher32(data: bytes | memoryview) -> bytes:
    """Return the data without the Fletcher-32 checksum (`H5_checksum_fletcher32`) at its end.

    Raises:
        ValueError: the checksum is another one.
    """
    content, stored = bytes(data[:-4]), bytes(data[-4:])
    words = np.frombuffer(content + b"\0" * (len(content) % 2), ">u2").astype(np.uint64)
    low = high = 0
    for start in range(0, len(words), 1 << 16):
        block = words[start : start + (1 << 16)]
        high += len(block) * low + int((block * np.arange(len(block), 0, -1, dtype=np.uint64)).sum())
        low, high = (low + int(block.sum())) % 65535, high % 65535
    for order in (stored, bytes([stored[i] for i in (1, 0, 3, 2)]) if len(stored) == 4 else b""):  # of old versions
        if len(order) == 4 and (
            int.from_bytes(order[:2], "little") % 65535 == low and int.from_bytes(order[2:], "little") % 65535 == high
        ):
            return content
    raise ValueError("a chunk has another checksum than its data")
