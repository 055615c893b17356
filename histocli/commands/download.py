"""`histo download`: download or read patches, and pack them into the workspace."""

import os
from dataclasses import dataclass, replace
from enum import Enum
from hashlib import sha256
from pathlib import Path

from histocli.atomic import write_json
from histocli.config import SUBSET, PackConfig
from histocli.data.dataset import Dataset, make_printable, read_dataset
from histocli.data.manifest import is_subset
from histocli.data.store import pack
from histocli.errors import HistoError, UsageError
from histocli.listeners import SILENT, CommandListener
from histocli.locks import hold
from histocli.schema import Json
from histocli.sources import PlannedFile, RemoteSource, Source, SourceContext, SourceOptions, find_source_type
from histocli.sources.options import list_declared_options
from histocli.sources.retry import DEFAULT_POLICY
from histocli.workspace import Workspace, check_name


@dataclass(frozen=True)
class DownloadConfig(PackConfig):
    """The options of `histo download`; `options` are the options that the source declares."""

    source: str
    options: SourceOptions

    @property
    def request(self) -> Json:
        """The options that decide the content of the data set, as `dataset.json` records them."""
        values = {
            declared.option.flag.removeprefix("--"): _to_json_value(name, getattr(self.options, name, declared.default))
            for name, declared in list_declared_options().items()
        }
        is_seed_used = self.n is not None or hasattr(self.options, "seed")
        return {"source": self.source, **values, "n": self.n, "seed": self.seed if is_seed_used else None}


def find_dataset(workspace: Workspace, name: str, config: DownloadConfig) -> Dataset | None:
    """Return the data set `name` if it exists, None if it does not.

    Raises:
        HistoError: it was packed with other options than `config`, or cannot be read.
    """
    files = workspace.dataset_path(name), workspace.patches_path(name), workspace.manifest_path(name)
    if not all(file.is_file() for file in files) or (dataset := read_dataset(workspace, name)) is None:
        return None
    # A data set of an earlier version does not record options that were added later. They have their defaults.
    declared = list_declared_options().items()
    defaults = {d.option.flag.removeprefix("--"): _to_json_value(name, d.default) for name, d in declared}
    if not dataset.request:
        raise HistoError(f"{workspace.dataset_path(name)} does not name the options", "--force packs it again")
    if {**defaults, **dataset.request} != config.request:
        raise HistoError(
            f"there is a data set {name!r} already, packed with other options ({dataset.source}: {dataset.origin})",
            "choose another --name, or replace the old data set with --force",
        )
    return dataset


def plan_download(config: DownloadConfig, workspace: Workspace) -> list[PlannedFile]:
    """Return the files that a download would fetch; for a source without downloads, return one entry.

    Raises:
        HistoError: an option is not possible with this source, or its location does not exist.
    """
    policy = replace(DEFAULT_POLICY, tries=2)  # the user waits for the answer
    context = SourceContext(workspace.downloads_dir, config.force, policy=policy)
    source = find_source_type(config.source).open(config.options, context)
    if isinstance(source, RemoteSource):
        return source.plan()
    return [PlannedFile(source.report.origin, source.total, True, "patches")]


def check_request(workspace: Workspace, name: str, config: DownloadConfig) -> None:
    """Check options, and that the data set `name` would replace neither a subset nor a file that it is made from.

    Raises:
        UsageError: it would, or an option cannot be used.
    """
    config.check()
    if name == SUBSET or is_subset(workspace.manifest_path(name)):
        raise UsageError(f"--name {name} is the name of a subset that histo balance writes", "give another name")
    given = [
        value for field in vars(config.options).values() for value in (field if isinstance(field, tuple) else (field,))
    ]
    inputs = [Path(value) for value in given if isinstance(value, str | Path) and os.path.isfile(value)]  # noqa: PTH113
    for written in (workspace.manifest_path(name), workspace.patches_path(name), workspace.dataset_path(name)):
        for path in inputs:
            if written.is_file() and written.samefile(path):
                raise UsageError(
                    f"the data set {name!r} would replace {path}, and its content would be lost", "use another --name"
                )


def download(workspace: Workspace, name: str, config: DownloadConfig, *, listener: CommandListener = SILENT) -> Dataset:
    """Download the files of the source that are missing, and pack its patches as the data set `name`.

    Raises:
        HistoError: an option is not possible with this source, its location does not exist, or a file cannot be read.
        HeldError: another process is packing this data set.
    """
    context = SourceContext(workspace.downloads_dir, config.force, listener.on_transfer)
    source = find_source_type(config.source).open(config.options, context)  # writes nothing
    with hold(workspace.data_dir / f".{check_name(name, 'data set')}.lock", f"data set {name!r}"):
        workspace.tidy()
        if isinstance(source, RemoteSource):
            if source.is_remote:
                listener.on_note(f"fetching {source.report.origin}")
            source.fetch()
        return pack_source(workspace, name, config, source, listener=listener)


def pack_source(
    workspace: Workspace, name: str, config: DownloadConfig, source: Source, *, listener: CommandListener = SILENT
) -> Dataset:
    """Pack the patches of `source` (all, or `config.n` drawn at random) as the data set `name`.

    `dataset.json` is written last. The listener receives the number of patches so far, and the error of each patch that
    cannot be read.
    """
    n = config.n
    listener.on_total(min((count for count in (n, source.total) if count is not None), default=None))
    packed = pack(source, workspace, name, n=n, seed=config.seed, listener=listener)
    report = source.report
    counts = {
        "normal": packed.labels[0],
        "tumour": packed.labels[1],
        "without a label": packed.labels[None],
        "exact duplicates dropped": packed.duplicates_dropped,
        "ids that are not their pixels' SHA-1": packed.sha1_mismatches,
        "unreadable": packed.unreadable,
    }
    counts |= {name: count for name, count in report.counts.items() if name not in counts}
    notes = list(report.notes)
    if source.has_sha1_ids and not packed.sha1_mismatches:
        notes.append("each id is the SHA-1 of its patch's pixels")
    if n and packed.patches < n:
        notes.append(f"there are only {packed.patches:,} patches, not {n:,}")
    dataset = Dataset(
        name=name,
        source=config.source,
        request=config.request,
        origin=make_printable(report.origin),
        patches=packed.patches,
        sha256=packed.sha256,
        ids_sha256=packed.ids_sha256,
        labels=sorted(label for label in packed.labels if label is not None),
        counts={name: count for name, count in counts.items() if count},
        checksums=report.checksums,
        notes=list(map(make_printable, notes)),
    )
    write_json(workspace.dataset_path(name), vars(dataset))
    return dataset


def _to_json_value(name: str, value: object) -> object:
    """Return the value of an option for a JSON file, with absolute paths and without secrets."""
    if isinstance(value, tuple):
        return [_without_secrets(item) if name == "locations" else item for item in value]
    if isinstance(value, Path):
        return str(value.absolute())
    return value.value if isinstance(value, Enum) else value


def _without_secrets(location: str) -> str:
    """Return an absolute path, or an address without secrets: a hash replaces its credentials and its query."""
    if "://" not in location:
        return str(Path(location).absolute())
    from histocli.sources.http import redact_url

    public = redact_url(location)
    return public if public == location else f"{public} sha256:{sha256(location.encode()).hexdigest()}"
