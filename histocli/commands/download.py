"""`histo download`: bring patches into the workspace, packed once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from histocli.data.store import Packed, pack
from histocli.errors import HistoError
from histocli.fs import hold
from histocli.sources import Source
from histocli.workspace import Workspace, checked_name, read_json, write_json


@dataclass(frozen=True)
class Dataset:
    """What `dataset.json` says of a packed data set."""

    name: str
    source: str
    request: dict[str, Any]
    origin: str
    patches: int
    sha256: str
    ids_sha256: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@contextmanager
def at_work_on(workspace: Workspace, name: str) -> Iterator[None]:
    """Hold a data set in this block, so that no other process makes it; what killed ones left is cleaned up.

    Raises:
        HeldError: another one is at work on it.
    """
    with hold(workspace.data_dir / f".{checked_name(name, 'data set')}.lock", f"data set {name!r}"):
        workspace.tidy()
        yield


def existing(workspace: Workspace, name: str, request: dict[str, Any]) -> Dataset | None:
    """The data set `name` if it is packed already, as `request` asks for it.

    Raises:
        HistoError: a data set of that name was made from something else, or cannot be read.
    """
    path = workspace.dataset_path(name)
    if not all(file.is_file() for file in (path, workspace.patches_path(name), workspace.manifest_path(name))):
        return None
    try:
        found = Dataset(**read_json(path))
    except TypeError as error:
        raise HistoError(f"cannot read {path}: {error}", "--force packs it again") from error
    if found.request != request:
        raise HistoError(
            f"there is a data set {name!r} already, made otherwise ({found.source}: {found.origin})",
            "--name another gives this one its own name, --force replaces that one",
        )
    return found


def download(
    workspace: Workspace,
    name: str,
    kind: str,
    source: Source,
    request: dict[str, Any],
    *,
    n: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None],
    on_unreadable: Callable[[str, HistoError], None],
) -> Dataset:
    """Pack `source`, or `n` patches of it drawn with `seed`, as the data set `name`; `dataset.json` is written last."""
    packed = pack(source, workspace, name, n=n, seed=seed, on_progress=on_progress, on_unreadable=on_unreadable)
    report = source.report
    few = [] if n is None or packed.patches >= n else [f"{n:,} patches were asked for; there are {packed.patches:,}"]
    dataset = Dataset(
        name=name,
        source=kind,
        request=request,
        origin=report.origin,
        patches=packed.patches,
        sha256=packed.sha256,
        ids_sha256=packed.ids_sha256,
        counts={**report.counts, **_counts(packed)},
        checksums=report.checksums,
        notes=report.notes + few,
    )
    write_json(workspace.dataset_path(name), vars(dataset))
    return dataset


def _counts(packed: Packed) -> dict[str, int]:
    named = {
        "exact duplicates dropped": packed.duplicates_dropped,
        "ids that are not their pixels' SHA-1": packed.sha1_mismatches,
        "unreadable": packed.unreadable,
    }
    return {name: count for name, count in named.items() if count}
