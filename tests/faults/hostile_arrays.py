"""HDF5 files that lead out of themselves, or unpack to more than they should: a seeded stream of variants."""

import os
import zlib
from functools import cache

import h5py
import numpy as np

PATCH = (96, 96, 3)


@cache
def zeros(count):
    """`count` zeros as zlib packs them, made a little at a time."""
    packer, parts = zlib.compressobj(9), []
    for start in range(0, count, 1 << 20):
        parts.append(packer.compress(bytes(min(1 << 20, count - start))))
    return b"".join([*parts, packer.flush()])


def external(rng, file, folder):
    target, size = rng.choice(
        [("secret.bin", 27648), ("pipe", 27648), ("/dev/zero", h5py.h5f.UNLIMITED), ("/etc/passwd", 99)]
    )
    rows = max(1, min(size, 27648) // 27648)
    shape = (rows, *PATCH) if size != 99 else (33, 1, 1, 3)
    file.create_dataset("x", shape=shape, dtype="u1", external=[(target, rng.choice([0, 7]), size)])


def link(rng, file, folder):
    kind = rng.choice([h5py.ExternalLink("other.h5", "/x"), h5py.ExternalLink("pipe", "/x"), h5py.SoftLink("/y")])
    file["x"] = kind
    if rng.random() < 0.5:
        file.create_group("y")["x"] = np.zeros((2, *PATCH), "u1")


def virtual(rng, file, folder):
    unlimited = rng.random() < 0.5
    layout = h5py.VirtualLayout(shape=(3, *PATCH), dtype="u1", maxshape=(None, *PATCH) if unlimited else None)
    source = h5py.VirtualSource(rng.choice(["other.h5", "pipe", "."]), "x", (3, *PATCH), maxshape=(None, *PATCH))
    if unlimited:
        layout[: h5py.h5s.UNLIMITED] = source[: h5py.h5s.UNLIMITED]
    else:
        layout[:] = source
    file.create_virtual_dataset("x", layout)


def large_chunk(rng, file, folder):
    rows = rng.choice([1, 5000, 20_000, 150_000])
    depth = rng.choice([1, 3])
    chunks = (rows, rng.choice([96, 1]), 96, depth)
    data = file.create_dataset("x", (2, *PATCH), "u1", maxshape=(None, *PATCH), chunks=chunks, compression="gzip")
    data.id.write_direct_chunk((0, 0, 0, 0), zeros(min(rows, 1000) * 96))


def bomb(rng, file, folder):
    """A chunk of some patches that unpacks to hundreds of megabytes; packed, it is not larger than such a chunk."""
    shape = rng.choice([(100, *PATCH), (4, 1, 1, 3)])
    data = file.create_dataset("x", shape, "u1", chunks=shape, compression="gzip", fletcher32=rng.random() < 0.3)
    data.id.write_direct_chunk((0, 0, 0, 0), zeros(rng.choice([1, 700]) << 20))


def lzf(rng, file, folder):
    data = file.create_dataset("x", (4, *PATCH), "u1", chunks=(rng.choice([1, 4]), *PATCH), compression="lzf")
    data.id.write_direct_chunk((0, 0, 0, 0), rng.randbytes(rng.choice([10, 100_000, 1 << 20])))


def filters(rng, file, folder):
    kind = rng.choice(["scaleoffset", "szip", "unknown"])
    if kind == "scaleoffset":
        file.create_dataset("x", (2, *PATCH), "u1", chunks=(1, *PATCH), scaleoffset=3)[:] = 1
        return
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((1, *PATCH))
    number = 32015 if kind == "unknown" else h5py.h5z.FILTER_DEFLATE
    for _ in range(1 if kind == "unknown" else 3):  # packed three times
        properties.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (9,))
    space = h5py.h5s.create_simple((1, *PATCH))
    data = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, properties)
    data.write_direct_chunk((0, 0, 0, 0), zeros(1 << 20))


def never_stored(rng, file, folder):
    rows, chunks = rng.choice([(10**15, (1024, 1, 1, 3)), (3, (1, 1, 1, 3)), (5, None)])
    file.create_dataset("x", (rows, 1, 1, 3) if chunks else (rows, *PATCH), "u1", chunks=chunks)


def content(rng, file, folder):
    values = [h5py.Empty("u1"), np.uint8(3), np.zeros(3), np.zeros((2, *PATCH), "f4"), np.zeros((2, *PATCH), "i8")]
    values += [np.zeros((2, 96, 96, 4), "u1"), np.array(["a"] * 3, "S9"), np.zeros((2, 0, 96, 3), "u1")]
    for name in rng.sample(["x", "y", "\x1b]0;pwn\7", "a" * 3000, "\udcff"], rng.randint(1, 3)):
        file[name.encode("utf-8", "surrogateescape")] = rng.choice(values)


def odd_width(rng, file, folder):
    kind = h5py.h5t.NATIVE_UINT8.copy()
    kind.set_precision(rng.choice([3, 5]))
    data = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((1, *PATCH)))
    data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ones((1, *PATCH), "u1"))


def enumeration(rng, file, folder):
    """An enumeration: each number has a name, which need not be what it looks like."""
    kind = h5py.enum_dtype(rng.choice([{"white": 0, "black": 255}, {"FALSE": 1, "TRUE": 0}]), basetype="u1")
    file.create_dataset("x", data=np.zeros((2, *PATCH), "u1"), dtype=kind)
    file.create_dataset("y", data=np.array([0, 1], "u1"), dtype=kind)


def labels(rng, file, folder):
    """A file of PCam's labels, with one chunk of billions."""
    rows = rng.choice([20, 3_500_000_000])
    data = file.create_dataset(
        "y", (20, 1, 1, 1), "u1", maxshape=(None, 1, 1, 1), chunks=(rows, 1, 1, 1), compression="gzip"
    )
    data.id.write_direct_chunk((0, 0, 0, 0), zeros(rng.choice([20, 100 << 20])))


def sound(rng, file, folder):
    options = rng.choice(
        [
            {},
            {"compression": "gzip", "chunks": (2, *PATCH), "shuffle": True, "fletcher32": True},
            {"compression": "lzf", "chunks": (1, *PATCH)},
            {"chunks": (3, 50, 96, 2), "fletcher32": True},
            {"chunks": (2, 7, 13, 1), "compression": "gzip"},
        ]
    )
    file.create_dataset("x", data=np.full((5, *PATCH), 9, "u1"), **options)
    file["y"] = np.array([0, 1, 1, 0, 1], rng.choice(["u1", "i8", ">i4", "?"]))


VARIANTS = [external, link, virtual, large_chunk, bomb, lzf, filters, never_stored, content, odd_width, enumeration]
VARIANTS += [labels, sound]


def write(rng, folder, path):
    """Write a variant to `path`, a few of them with damaged bytes; return its name and whether it is sound."""
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
        (folder / "secret.bin").write_bytes(b"TOPSECRET" * 5000)
        with h5py.File(folder / "other.h5", "w") as file:
            file["x"] = np.full((3, *PATCH), 7, "u1")
    variant = rng.choice(VARIANTS)
    with h5py.File(path, "w", libver=rng.choice(["earliest", "latest"])) as file:
        variant(rng, file, folder)
    is_sound = variant is sound
    if rng.random() < 0.3:
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data) if rng.random() < 0.5 else min(len(data), 3000))] = rng.choice(
                [0, 255, 127, 1]
            )
        path.write_bytes(data)
        is_sound = False
    return variant.__name__, is_sound
