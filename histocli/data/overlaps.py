"""Find patches that show the same tissue: pairs whose pixels are equal after a shift.

Patches of one slide are cut at many places, so two of them often share an area. Such pairs are found only by
their pixels. Each block of 8x8 pixels has a hash; in every window of 9x9 blocks, the block with the lowest hash is an
anchor. Two patches that share 16x16 pixels share such a window, and so they have the same anchor in it, at any position
in the two patches. Two equal anchors are a proposal: a pair of patches and its shift. Every proposal is compared pixel
by pixel. This choice of anchors is called winnowing (Schleimer, Wilkerson and Aiken 2003,
doi:10.1145/872757.872770), here in two dimensions.

A lossy format encodes each patch separately, in blocks: 16x16 pixels in a usual JPEG. If the shift is a multiple of the
block size, as between PCam's patches, most blocks are encoded in the same way, so their anchors are equal and propose
the pair. The shared areas then differ at their border, where colour is smoothed across blocks, and only little
elsewhere. At any other shift, overlaps of lossy patches are not found. Rotated or mirrored patches are not compared.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain
from typing import Any

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.images.stream import count_workers, map_ordered
from histocli.patch import PATCH_SIDE, Pixels

MIN_OVERLAP = 16  # px in height and width: PCam's patches are on a grid of 16 px, so this is their smallest overlap
PAIR = np.dtype([("a", "<u4"), ("b", "<u4"), ("dy", "i1"), ("dx", "i1")])

OnStage = Callable[[str, int, int], None]
Array = np.ndarray[Any, Any]

_BLOCK = 8
_BLOCKS = PATCH_SIDE - _BLOCK + 1  # positions of a block along a side
_WINDOW = MIN_OVERLAP - _BLOCK + 1
_MIN_STEP = 8  # grey levels between neighbours, across and down: a block with less is background or a straight edge
CODING_ERROR = 0.5  # of a cell's variance: in the worst cell, PCam's pairs as JPEG have 0.23 at most, false ones 3.7
_CELL = (16, 16)  # px: a pair is rejected if one cell differs
_NOISE = 10.0  # grey levels of deviation that are added to that of every cell
_MIN_LEVELS = 16  # green levels in an overlap: with fewer, two areas may be equal by chance
_MAX_PAIRS_PER_ANCHOR = 256  # on PCam's grid a pixel is in at most 36 patches
_BINS = 64  # anchors are sorted into this number of bins, which are paired one after the other to save memory
_TASK_PATCHES = 256  # patches in a task of a thread
_BATCH_PATCHES = 4  # patches that a thread computes at a time: these stay in its cache
_PAIRS_PER_REPORT = 4096  # proposals between two reports of progress
_MAX_PATCHES = 1 << 24  # a proposal has 24 bits for the number of a patch
_POSITION = 14  # bits of an anchor's position in its patch: 7 down, 7 across
_ACROSS, _DOWN = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # bases of the blocks' polynomial hash: arbitrary odd numbers
_NO_ANCHOR = np.uint32(2**32 - 1)  # the rank of a block without structure, which is never an anchor


def find_overlaps(stores: Sequence[Pixels], on_stage: OnStage = lambda what, done, total: None) -> Array:
    """Find every pair of patches that share an area of 16x16 pixels or more, after any shift.

    The shared area must have structure: a block of 8x8 pixels in which neighbours differ by 8 levels of green,
    somewhere across and somewhere down, and 16 levels in all. One such block must be exactly equal. The rest may differ
    as much as a lossy format changes it: in each cell of 16x16 by a mean square of `CODING_ERROR` of its variance. If
    more than 257 patches have an equal block, each is compared only with the next 256: the copies of an area are still
    in one group, but not all of their pairs are listed.

    Args:
        stores: packed arrays (N,96,96,3) uint8; their patches are numbered as in one array; at most 16 million patches.
        on_stage: called as `on_stage(what, done, total)` for patches read, bins of anchors paired, pairs compared.

    Returns:
        A sorted array of `PAIR`: pixel (y, x) of patch `b` is pixel (y + dy, x + dx) of patch `a`, and a < b.

    Raises:
        HistoError: there are more patches.
    """
    total = sum(map(len, stores))
    if total >= _MAX_PATCHES:
        raise HistoError(f"overlaps are searched among fewer than {_MAX_PATCHES:,} patches; there are {total:,}")
    bits = _POSITION + total.bit_length()
    bins: list[list[Array]] = [[] for _ in range(_BINS)]
    with closing(map_ordered(partial(_sort_into_bins, bits=bits), _make_tasks(stores), count_workers())) as tasks:
        for done, pieces in enumerate(tasks, 1):
            for bin_anchors, piece in zip(bins, pieces, strict=True):
                bin_anchors.append(piece)
            on_stage("reading patches", min(done * _TASK_PATCHES, total), total)
    proposals = np.empty(0, np.uint64)
    with closing(map_ordered(partial(_propose, bits=bits), _pop_bins(bins), count_workers())) as proposed:
        for done, new_proposals in enumerate(proposed, 1):
            proposals = _sort_unique(np.concatenate([proposals, new_proposals]))
            on_stage("pairing anchors", done, _BINS)
    patches = list(chain.from_iterable(map(np.asarray, stores)))
    pairs = _decode_pairs(proposals)
    is_equal = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _PAIRS_PER_REPORT):
        block = slice(start, start + _PAIRS_PER_REPORT)
        is_equal[block] = [_is_equal_overlap(patches[a], patches[b], dy, dx) for a, b, dy, dx in pairs[block].tolist()]
        on_stage("comparing pairs", min(start + _PAIRS_PER_REPORT, len(pairs)), len(pairs))
    return pairs[is_equal]


def group_overlaps(pairs: Array, n: int) -> Array:
    """Group `n` patches, int (n,): patches that are connected by pairs are in one group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(pairs), bool), (pairs["a"], pairs["b"])), shape=(n, n))
    groups: Array = connected_components(edges, directed=False)[1]
    return groups


def name_groups(groups: Array, rows: Array) -> Array:
    """Return the names of the overlap groups of the patches `rows` (N,), str (N,): "" if no other of them is in it.

    `groups` are those of all patches, from `group_overlaps`.
    """
    group_of = groups[rows]
    is_single = np.bincount(group_of)[group_of] == 1
    names: Array = np.where(is_single, "", group_of.astype(str))
    return names


def _make_tasks(stores: Sequence[Pixels]) -> Iterator[tuple[int, Pixels]]:
    """Yield the tasks for the threads: the number of the first patch, and the patches."""
    first = 0
    for store in stores:
        for start in range(0, len(store), _TASK_PATCHES):
            yield first + start, store[start : start + _TASK_PATCHES]
        first += len(store)


def _sort_into_bins(task: tuple[int, Pixels], bits: int) -> list[Array]:
    """Return the anchors of the patches of a task, by bin, each as a number of 64 bits.

    The lower `bits` of a number are the patch number and the position. The upper bits are the first bits of the hash,
    so that sorting the numbers sorts by hash.
    """
    first, patches = task
    bins, keys = [], []
    for start in range(0, len(patches), _BATCH_PATCHES):
        hashes, number, y, x = _find_anchors(np.ascontiguousarray(patches[start : start + _BATCH_PATCHES]))
        place = (number + (first + start)) << _POSITION | y << 7 | x
        bins.append((hashes % _BINS).astype(np.uint8))
        keys.append((hashes >> np.uint64(bits) << np.uint64(bits)) | place.astype(np.uint64))
    bin_anchors = np.concatenate(bins)
    order = np.argsort(bin_anchors, kind="stable")
    return np.split(np.concatenate(keys)[order], np.searchsorted(bin_anchors[order], np.arange(1, _BINS)))


def _find_anchors(patches: Pixels) -> tuple[Array, Array, Array, Array]:
    """Return the anchors of patches (n,96,96,3), as described at the top of this module.

    These are four arrays (A,): the hash of each anchor, the number of its patch, its row and its column.
    """
    hashes = _hash_blocks(patches)
    ranks = (hashes >> np.uint64(32)).astype(np.uint32)
    ranks[~_has_structure(patches)] = _NO_ANCHOR
    edge, side = _WINDOW - 1, _BLOCKS + _WINDOW - 1
    least = np.zeros((len(patches), side, side), np.uint32)
    least[:, edge:-edge, edge:-edge] = _reduce_squares(ranks, np.minimum)
    is_anchor = _reduce_squares(least, np.maximum) == ranks  # the lowest of at least one of its windows
    is_anchor &= ranks != _NO_ANCHOR
    patch_numbers, y, x = np.nonzero(is_anchor)
    # The lowest of many hashes is a small number with few upper bits set: the product spreads it over all bits.
    return hashes[patch_numbers, y, x] * np.uint64(_ACROSS), patch_numbers, y, x


def _hash_blocks(patches: Pixels) -> Array:
    """Return a hash of each block of 8x8 pixels: uint64 (n,89,89)."""
    tall = cv2.cvtColor(patches.reshape(-1, PATCH_SIDE, 3), cv2.COLOR_RGB2RGBA)  # four bytes, for one number a pixel
    hashes: Array = tall.view(np.uint32).reshape(-1, PATCH_SIDE, PATCH_SIDE).astype(np.uint64)
    width = 1
    while width < _BLOCK:
        hashes = hashes[:, :, :-width] * _power(_ACROSS, width) + hashes[:, :, width:]
        hashes = hashes[:, :-width] * _power(_DOWN, width) + hashes[:, width:]
        width *= 2
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):  # the finalizer of MurmurHash3
        hashes ^= hashes >> np.uint64(33)
        hashes *= np.uint64(multiplier)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def _power(base: int, exponent: int) -> np.uint64:
    return np.uint64(pow(base, exponent, 2**64))


def _has_structure(patches: Pixels) -> Array:
    """Return whether each block has green values that differ from neighbours, across and down: bool (n,89,89)."""
    green = cv2.extractChannel(patches.reshape(-1, PATCH_SIDE, 3), 1)  # of all patches, one below the other
    across = cv2.absdiff(green[:, 1:], green[:, :-1])
    down = cv2.absdiff(green[1:], green[:-1])  # also from one patch into the next, where no block begins
    steps = cv2.min(_dilate(across, 8, 7)[:-1, :_BLOCKS], _dilate(down, 7, 8)[:, :_BLOCKS])
    steps = cv2.copyMakeBorder(steps, 0, 1, 0, 0, cv2.BORDER_CONSTANT)
    return steps.reshape(-1, PATCH_SIDE, _BLOCKS)[:, :_BLOCKS] >= _MIN_STEP


def _dilate(image: Array, height: int, width: int) -> Array:
    """Return the largest value of the rectangle that begins at each pixel."""
    return cv2.dilate(image, np.ones((height, width), np.uint8), anchor=(0, 0))


def _reduce_squares(values: Array, choose: "np.ufunc") -> Array:
    """Reduce each square of `_WINDOW` x `_WINDOW` values by minimum or maximum."""
    width = 1
    while width < _WINDOW:
        step = min(width, _WINDOW - width)
        values = choose(values[:, :, :-step], values[:, :, step:])
        values = choose(values[:, :-step], values[:, step:])
        width += step
    return values


def _pop_bins(bins: list[list[Array]]) -> Iterator[Array]:
    """Yield each bin as one array, and remove it from the list, which frees its memory."""
    while bins:
        yield np.concatenate([np.empty(0, np.uint64), *bins.pop()])


def _propose(keys: Array, bits: int) -> Array:
    """Return each pair of patches with an equal anchor, and its shift, once, in the form that `_decode_pairs` reads."""
    keys.sort()
    hashes, places = keys >> np.uint64(bits), keys & np.uint64((1 << bits) - 1)
    first = np.arange(len(keys))
    codes = [np.empty(0, np.uint64)]
    for distance in range(1, _MAX_PAIRS_PER_ANCHOR + 1):
        first = first[first < len(keys) - distance]
        first = first[hashes[first] == hashes[first + distance]]
        codes.append(_encode_pairs(places[first].astype(np.int64), places[first + distance].astype(np.int64)))
        if not len(first):
            break
    return _sort_unique(np.concatenate(codes))


def _sort_unique(values: Array) -> Array:
    """Return the unique values; sorting the array in place takes a fraction of the time of `np.unique`."""
    values.sort()
    unique: Array = values[np.concatenate([[True], values[1:] != values[:-1]])[: len(values)]]
    return unique


def _encode_pairs(first: Array, second: Array) -> Array:
    """Encode pairs of positions: 24 bits for each patch, 8 for the shift down, 8 for the shift across.

    Pairs that overlap by less than `MIN_OVERLAP` are dropped.
    """
    a, b = first >> _POSITION, second >> _POSITION
    dy, dx = (first >> 7 & 127) - (second >> 7 & 127), (first & 127) - (second & 127)
    is_large = (a != b) & (np.maximum(abs(dy), abs(dx)) <= PATCH_SIDE - MIN_OVERLAP)
    codes: Array = (a << 40 | b << 16 | (dy + 128) << 8 | (dx + 128))[is_large].astype(np.uint64)
    return codes


def _decode_pairs(codes: Array) -> Array:
    """Return the pairs that `_encode_pairs` encoded, as an array of `PAIR`."""
    pairs = np.empty(len(codes), PAIR)
    whole = codes.astype(np.int64)
    pairs["a"], pairs["b"] = whole >> 40 & 0xFFFFFF, whole >> 16 & 0xFFFFFF
    pairs["dy"], pairs["dx"] = (whole >> 8 & 255) - 128, (whole & 255) - 128
    return pairs


def _is_equal_overlap(first: Pixels, second: Pixels, dy: int, dx: int) -> bool:
    """Return whether two patches are equal in their overlap, except for coding errors, and have structure there."""
    area = first[max(0, dy) : PATCH_SIDE + min(0, dy), max(0, dx) : PATCH_SIDE + min(0, dx)]
    other_area = second[max(0, -dy) : PATCH_SIDE + min(0, -dy), max(0, -dx) : PATCH_SIDE + min(0, -dx)]
    is_equal = area.tobytes() == other_area.tobytes() or _has_only_coding_errors(area, other_area)
    return is_equal and (_count_levels(area[::4, ::4]) >= _MIN_LEVELS or _count_levels(area) >= _MIN_LEVELS)


def _has_only_coding_errors(first: Pixels, second: Pixels) -> bool:
    """Return whether, in each cell, the mean squared difference is a small part of the variance, over all colours."""
    values = first.astype(np.float32)
    error = cv2.blur(np.square(values - second), _CELL).sum(2)
    variance = (cv2.blur(np.square(values), _CELL) - np.square(cv2.blur(values, _CELL)) + _NOISE**2).sum(2)
    return bool((error <= CODING_ERROR * variance).all())


def _count_levels(pixels: Pixels) -> int:
    """Return the number of different green values."""
    return int(np.count_nonzero(np.bincount(pixels[..., 1].ravel())))
