"""Start a study of `histo tune`, or open the one that there is: its options, its folds and their manifests."""

import os
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path

from histocli.atomic import read_json, write_json
from histocli.compute.device import choose_compute
from histocli.config import TuneConfig, choose_batch_size, is_seed
from histocli.data.groups import find_split_unit
from histocli.data.manifest import hash_file, read_manifest
from histocli.errors import HistoError, UsageError
from histocli.fs import make_folder, make_write_error
from histocli.models import create_model
from histocli.schema import from_json, to_json
from histocli.training.options import choose_weights
from histocli.training.repeats import plan_repeats, write_folds
from histocli.training.search_space import make_base_config
from histocli.training.study import Study, StudyWorkspace
from histocli.training.study_check import HINT, check_manifest, check_study_file, check_unstarted
from histocli.workspace import Workspace, check_name

_CHANGEABLE = ("trials", "hours", "device")  # the options that may change when a study is continued


@dataclass(frozen=True)
class StudyRecord:
    """The content of `study.json`: the options of a study, what its folds keep together, and SHA-256 of manifests."""

    options: TuneConfig
    split_by: str
    manifests: dict[str, str]


def open_study(workspace: Workspace, config: TuneConfig, given: Collection[str]) -> Study:
    """Return the study `config.name`: a new one, or that in the workspace, with the options that it was started with.

    `given` names the options that the user gave. Except for `trials`, `hours` and `device`, those of an existing study
    must be the same.

    Raises:
        HistoError: the subset cannot be divided into folds, its manifest has changed since the study was started, or a
            file of the study is damaged.
        UsageError: an option cannot be used, or differs from that of the study.
    """
    folder = StudyWorkspace(workspace.root, study=config.name)
    with folder.lock():
        path = folder.study_path(config.name)
        if not os.path.lexists(path):
            check_unstarted(folder.study_dir / "study.db")
            return _start_study(folder, config, path, given)
        if not (folder.study_dir / "study.db").is_file():
            raise HistoError(f"{folder.study_dir / 'study.db'} is gone, or is not a file", HINT)
        record = from_json(StudyRecord, read_json(path), str(path), HINT)
        _check_record(record, path, config.name)
        for name, sha256 in record.manifests.items():
            check_manifest(workspace.manifest_path(name), sha256, config.name)
        check_study_file(folder.study_dir / "study.db", config.name)
        study = Study(folder, _apply_given(record.options, config, given), record.split_by, record.manifests)
        study.check()
        study.tidy()
        return study


def _check_record(record: StudyRecord, path: Path, name: str) -> None:
    """Raise `HistoError` unless a record is that of the study `name`, with options that can be used."""
    options = record.options
    try:
        replace(options, trials=1).check()  # the number of trials is not stored
        for manifest in record.manifests:
            check_name(manifest, "subset")
    except UsageError as error:
        raise HistoError(f"{path}: {error}", HINT) from error
    if options.name != name or options.data not in record.manifests or not is_seed(options.seed):
        raise HistoError(f"{path} has another name, subset or seed than histo tune writes", HINT)


def _start_study(folder: StudyWorkspace, config: TuneConfig, path: Path, given: Collection[str]) -> Study:
    """Write the manifests of the folds, make the file of the study, and at last its record."""
    config.check()
    device = choose_compute(config.device, config.precision).device.type  # raises an error if there is no such device
    for arch in config.arch:
        weights = choose_weights(arch, config.weights)
        if weights is not config.weights and "weights" in given:
            raise UsageError(
                f"--weights {config.weights}: {arch} starts from its published weights", "leave --weights out"
            )
        create_model(arch, weights)  # raises an error if it cannot be used
    repeats = plan_repeats(folder, make_base_config(config), config.name, config.folds, 0)
    names = [member.config.data for member in repeats.members]
    was_begun = folder.study_dir.exists()  # and stopped before its record was written
    for name in names:
        if folder.manifest_path(name).exists() and not was_begun:
            raise HistoError(f"there is a subset {name!r} already", "use another --name")
    try:
        make_folder(folder.study_dir)
    except OSError as error:
        raise make_write_error(folder.study_dir, error) from error
    try:
        write_folds(folder, config.data, repeats, is_study=True)
    except HistoError:
        if not was_begun:  # so that the command can be given again
            for name in names:
                folder.manifest_path(name).unlink(missing_ok=True)
            folder.study_dir.rmdir()
        raise
    first = read_manifest(folder.manifest_path(names[0]))
    split_by = find_split_unit(first)
    manifests = {name: hash_file(folder.manifest_path(name)) for name in (config.data, *names)}
    study = Study(folder, config, split_by, manifests)
    study.add_default_point(choose_batch_size(device, int((first["split"] == "train").sum())))
    write_json(path, to_json(StudyRecord(replace(config, trials=None, hours=None), split_by, manifests)))
    return study


def _apply_given(stored: TuneConfig, config: TuneConfig, given: Collection[str]) -> TuneConfig:
    """Return the options of an existing study, with those of this call.

    Raises:
        UsageError: another option was given that differs from that of the study.
    """
    for field in fields(TuneConfig):
        key, new, value = field.name, getattr(config, field.name), getattr(stored, field.name)
        if key in given and key not in _CHANGEABLE and new != value:
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"{flag} {_format_value(new)}: the study {stored.name!r} was started with {_format_value(value)}",
                f"leave {flag} out, or start another study with --name",
            )
    device = config.device if "device" in given else stored.device
    continued = replace(stored, trials=config.trials, hours=config.hours, device=device)
    continued.check()
    choose_compute(continued.device, continued.precision)
    return continued


def _format_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
