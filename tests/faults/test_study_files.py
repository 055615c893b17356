"""The files of a study of `histo tune`, damaged or made by somebody else: one error, and no time or memory."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.faults.processes import histo

pytest.importorskip("optuna")
pytestmark = pytest.mark.attack

MIB = 1 << 20
SPACE = ["--epochs", 1, "--batch-size", 8, "--folds", 2, "--arch", "histonet-64", "--augment", "none"]
TUNE = ["tune", "--trials", 1, "--device", "cpu"]
LARGE = "hex(zeroblob(30000000))"

WITHOUT_END = "with recursive c(x) as (select 1 union all select x + 1 from c)"
FILES = {
    "another database": (["drop table trials", "create table a (b)"], "it has no table trials"),
    "another study": (["update studies set study_name = 'x'"], "it does not hold the study 'tune'"),
    "another version": (["update alembic_version set version_num = 'v9'"], "optuna"),
    "a view without end": (
        ["drop table trial_values", f"create view trial_values as {WITHOUT_END} select x trial_id from c"],
        "it has a view 'trial_values'",
    ),
    "a trigger": (["create trigger t after insert on trials begin delete from trials; end"], "it has a trigger 't'"),
    "a huge value": (
        [f"insert into trial_user_attributes values (50, 1, 'problem', '\"' || {LARGE} || '\"')"],
        "string or blob too big",
    ),
    "minimized": (["update study_directions set direction = 'MINIMIZE'"], "does not maximize"),
    "an unknown state": (["update trials set state = 'DONE'"], "'DONE' is not among"),
    "no number": (["update trials set number = null"], "its trials are not numbered"),
    "a missing number": (["update trials set number = 7"], "its trials are not numbered"),
    "no time": (["update trials set datetime_start = 'yesterday'"], "yesterday"),
    "lr outside its range": (["update trial_params set param_value = 99 where param_name = 'lr'"], "does not search"),
    "lr as text": (["update trial_params set param_value = 'a' where param_name = 'lr'"], "is 'a', not a number"),
    "no lr": (["delete from trial_params where param_name = 'lr'"], "lacks parameters"),
    "another choice": (["update trial_params set param_value = -7 where param_name = 'arch'"], "out of range"),
    "an unknown distribution": (
        ["""update trial_params set distribution_json = '{"name": "os.system", "attributes": {}}'"""],
        "os.system",
    ),
    "AUC of 17": (["update trial_user_attributes set value_json = '[17, 1]' where key = 'auc'"], "auc[0] is 17"),
    "AUC NaN": (["update trial_user_attributes set value_json = '[NaN, 1]' where key = 'auc'"], "auc[0] is nan"),
    "AUC of no list": (["update trial_user_attributes set value_json = '3' where key = 'auc'"], "auc is 3, not a list"),
    "too many folds": (["update trial_user_attributes set value_json = '[1, 1, 1]' where key = 'auc'"], "of 3 folds"),
    "another mean": (["update trial_values set value = 1e308"], "not its mean AUC"),
    "infinite seconds": (["update trial_user_attributes set value_json = '1e999' where key = 'seconds'"], "is inf"),
}
RECORDS = {
    "another name": {"name": "../../x"},
    "no seed of NumPy": {"seed": -5},
    "no manifest": {"data": "x"},
    "no range": {"lr": "a:b:c"},
    "no number": {"batch_size": ["x"]},
}


@pytest.fixture(scope="module")
def studied_workspace(trained_workspace, tmp_path_factory):
    """A copy of the workspace, with a study of one trial."""
    root = shutil.copytree(trained_workspace, tmp_path_factory.mktemp("studied") / "workspace")
    histo(root, *TUNE, *SPACE)
    return root


@pytest.fixture
def study(studied_workspace, tmp_path):
    """Return a copy of the workspace with the study, and the folder of the study."""
    root = shutil.copytree(studied_workspace, tmp_path / "workspace")
    return root, root / "tuning" / "tune"


@pytest.mark.parametrize(("statements", "why"), FILES.values(), ids=FILES)
def test_a_file_that_histo_tune_cannot_have_written_is_one_error(study, statements, why):
    root, folder = study
    path = folder / "study.db"
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    process = histo(root, *TUNE, code=1, limits={"memory": 1000 * MIB})
    assert process.stderr.count("error: ") == 1
    assert f"error: cannot use {path}: " in process.stderr
    assert why in process.stderr
    assert "hint: start another study with --name" in process.stderr


@pytest.mark.parametrize("options", RECORDS.values(), ids=RECORDS)
def test_a_record_that_histo_tune_cannot_have_written_is_one_error(study, options):
    root, folder = study
    path = folder / "study.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"options": record["options"] | options}))
    process = histo(root, *TUNE, code=1)
    assert process.stderr.count("error: ") == 1
    assert f"error: {path}" in process.stderr


def pipe(path):
    os.mkfifo(path)


def dangling_link(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [pipe, dangling_link, Path.mkdir], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["study.json", "study.db"])
def test_what_is_no_file_is_refused_and_stays(study, name, make):
    root, folder = study
    (folder / name).unlink()
    make(folder / name)
    before = (folder / name).lstat()
    process = histo(root, *TUNE, code=1)
    assert process.stderr.count("error: ") == 1
    assert str(folder / name) in process.stderr
    after = (folder / name).lstat()
    assert (after.st_ino, after.st_mode) == (before.st_ino, before.st_mode)


def test_trials_without_their_record_are_not_continued_with_other_options(study):
    root, folder = study
    (folder / "study.json").unlink()
    process = histo(root, *TUNE, "--arch", "resnet18", code=1)
    assert (
        f"error: {folder / 'study.db'} has trials, but their record {folder / 'study.json'} is gone" in process.stderr
    )


def test_a_sound_study_is_continued(study):
    root, _ = study
    assert "continued after 1 trial" in histo(root, *TUNE).stderr
