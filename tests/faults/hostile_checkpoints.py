"""Checkpoints that no `histo train` wrote: an endless, seeded stream of variants, each written to a path."""

import io
import pickle
import struct
import zipfile
import zlib

import torch

MIB = 1 << 20
ARCHES = [
    *("resnet18", "regnet_y_128gf", "vit_h_14", "convnext_large", "inception_v3", "p4m-densenet", "resnet9000", ""),
    *(
        "timm/resnet50",
        "timm/vit_giant_patch14_224",
        "timm/hf-hub:a/b",
        "timm/local-dir:/etc",
        "timm/../x",
        "histonet?a=1",
    ),
]
OPTIONS = ["layers=[100000,1,1,1]", "depth=4096", "img_size=100000", "embed_dim=4096", "patch_size=0", "in_chans=9"]
OPTIONS += [
    "features_only=true",
    "layers=[[[1]]]",
    "x=" + "[" * 5000,
    "pretrained_cfg={}",
    "global_pool=",
    "img_size=a",
]


def laughs(depth=40):
    """A list that is short in a pickle, and whose `repr` is longer than any memory."""
    value = ["ha"]
    for _ in range(depth):
        value = [value, value]
    return value


VALUES = [
    *(float("nan"), float("inf"), -1, 0, 0.5, 1 << 70, 10**600, -(1 << 63), True, None, "", "three", "\ud800", "a\0b"),
    *(
        "x" * 200_000,
        "../../up",
        "\x1b[31m",
        "/" * 300,
        [],
        {},
        (),
        [1, "a"],
        {1: 2},
        {"k": float("nan")},
        {"\ud800": 1},
    ),
    *({"val_auc": 10**600}, {"val_auc": "high"}, {"k" * 20_000: 1}, b"bytes", {1, 2}, 1j, laughs()),
    *(torch.ones(3), torch.tensor(float("nan")), {"a": torch.ones(2)}, {"a": laughs()}),
]


def save(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def field(rng, good):
    name = rng.choice([*good, "surprise", "origin", ""])
    return save({**good, name: rng.choice(VALUES)})


def lacking(rng, good):
    return save({name: value for name, value in good.items() if name not in rng.sample(list(good), 2)})


def architecture(rng, good):
    arch = rng.choice(ARCHES) + rng.choice(["", "?" + "&".join(rng.sample(OPTIONS, rng.randint(1, 3)))])
    return save({**good, "arch": arch, "model": rng.choice([{}, good["model"]])})


def tensor(rng, good):
    """One tensor of the weights, or of the validation scores, in another form."""
    part = rng.choice(["model", "validation"])
    name = rng.choice(list(good[part]))
    value = good[part][name]
    other = [
        lambda: value.flatten()[:1].expand(1 << 30),
        lambda: value.flatten()[:1].expand(4, 1 << 40),
        lambda: value.double(),
        lambda: value.half(),
        lambda: value.flatten()[:0],
        lambda: value.flatten()[:-1],
        lambda: value[None],
        lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value + 7,
        lambda: torch.full_like(value, float("inf")) if value.is_floating_point() else value * 0 + 200,
        lambda: value.to("meta"),
        lambda: value.flatten().to_sparse(),
        lambda: torch.nn.Parameter(value.float()),
        lambda: value.float().requires_grad_(),
        lambda: torch.zeros(rng.choice([3, 10_000])),
    ]
    changed = rng.choice([name, name, name + "x", "\ud800"])
    return save({**good, part: {**good[part], changed: rng.choice(other)()}})


def shared_storage(rng, good):
    """All weights are views of one storage: a small file, a network of any size. All else fits."""
    weights = {name: t for name, t in good["model"].items() if t.is_floating_point()}
    flat = torch.ones(max(t.numel() for t in weights.values()))
    model = {name: flat[: t.numel()].view(t.shape) for name, t in weights.items()}
    return save({**good, "model": good["model"] | model})


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def pack(pairs, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in pairs:
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return stream.getvalue()


def archive(rng, good):
    """The archive says one thing to one reader and another to the next, or is no longer what PyTorch writes.

    Only one reader is used, so what it reads of such an archive is harmless.
    """
    data = pack(members(save(good)))
    end = data.rfind(b"PK\5\6")
    size, start = struct.unpack("<LL", data[end + 12 : end + 20])
    directory = data[start : start + size]
    kind = rng.randrange(10)
    if kind == 0:
        return pack(members(data), rng.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    if kind == 1:  # two directories
        return data[: start + size] + directory + data[end:]
    if kind == 2:
        return data + bytes(rng.randint(1, 100))
    if kind == 3:
        return bytes(rng.randint(1, 100)) + data
    if kind == 4:  # a comment that looks like another end
        return data[:-2] + struct.pack("<H", 22) + data[end:]
    if kind == 5:  # a member of another file
        return pack([*members(data), (rng.choice(["archive/constants.pkl", "x", "archive/../../up", "B/a"]), b"1")])
    changed = bytearray(data)
    if kind == 6:  # any field of the directory or of its end
        at = rng.randrange(start, len(data))
        changed[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x08\0", b"\1\0", rng.randbytes(4)])
        return bytes(changed)
    if kind == 7:  # two members in one place
        return bytes(changed[: start + 42] + struct.pack("<L", rng.randrange(start)) + changed[start + 46 :])
    if kind == 8:  # weights that were damaged
        changed[rng.randrange(start)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    return data[: rng.randrange(len(data))]


PAIRS = b"".join(b"M" + number.to_bytes(2, "little") + b"N\x86" for number in range(10_000))
OPCODES = [
    b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    b"cbuiltins\nset\n]\x85R",
    b"ctorch\nTensor\nJ\xff\xff\xff\x7f\x85R",
    b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(NNNNtR",
    b"cos\nsystem\nX\x09\0\0\0touch own.\x85R",
    b"cposix\nsystem\nN\x85R",
    b"Nr\xff\xff\xff\x7f",
    b"Nr\xff\xff\xff\xff",
    b"K\1" * 300_000 + b"0" * 299_999,
    b"(" * 100_000 + b"t" * 100_000,
    b"]" + b"]" * 50_000 + b"a" * 50_000,
    b"X\xff\xff\xff\xff",
    b"\x8a\xff" + b"\xff" * 255,
    b"(X\x07\0\0\0storageX\x0c\0\0\0FloatStorageX\1\0\0\x000X\3\0\0\0cpuK\1tQ",
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuJ\0\0\0\x7ftQ",
    b"(X\x07\0\0\0storagectorch\nFloatStorage\n]X\3\0\0\0cpuK\1tQ",
    b"ccollections\nOrderedDict\n)R}X\1\0\0\0aNsb",
    b"](" + PAIRS + b"eq\1" + b"ccollections\nOrderedDict\nh\1\x85R" * 2_000,
    b"})" + b"\x85" * 150_000 + b"Ns",
    b"ctorch._utils\n_rebuild_tensor_v2\n(NNX\1\0\0\0AJ\xff\xff\xff\x7f\x86)NNtR",
]


def opcodes(rng, good):
    """The pickle makes what tensors and plain values do not need."""
    pairs = members(save(good))
    at = next(i for i, (name, _) in enumerate(pairs) if name.endswith("data.pkl"))
    name, data = pairs[at]
    if rng.random() < 0.7:  # a field more, before the end of the outermost dictionary
        insert = rng.choice(OPCODES) * rng.choice([1, 1, 3])
        head, tail = data[:-2], data[-2:]
        data = head + rng.choice([insert, b"X\1\0\0\0q" + insert]) + tail
    else:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        data = bytes(changed)
    pairs[at] = name, data
    return pack(pairs)


def bomb(rng, good):
    """One member unpacks to far more than it has, for each reader that unpacks it."""
    size = rng.choice([200, 1000, 4000])
    packer = zlib.compressobj(9, wbits=-15)
    small = b"".join([*(packer.compress(bytes(MIB)) for _ in range(size // 100)), packer.flush()])
    data = pack([*members(save(good)), ("archive/data/999", small)])
    at = data.rfind(b"archive/data/999") - 46
    return data[: at + 10] + b"\x08\0" + data[at + 12 : at + 24] + struct.pack("<L", size * MIB) + data[at + 28 :]


def other_file(rng, good):
    return rng.choice([b"", b"PK\5\6" + bytes(18), pickle.dumps(good["run"]), rng.randbytes(300), bytes(5000)])


VARIANTS = [field, field, field, lacking, architecture, architecture, tensor, tensor, shared_storage, archive, archive]
VARIANTS += [archive, opcodes, opcodes, bomb, other_file]


def write(rng, good, path):
    """Write a variant to `path`, and return its name."""
    variant = rng.choice(VARIANTS)
    path.write_bytes(variant(rng, good))
    return variant.__name__
