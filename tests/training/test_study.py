"""Studies of `histo tune` without training: when a trial is pruned, and where the first trial begins."""

import pytest

from histocli.config import GPU_BATCH_PATCHES, RunConfig, TuneConfig, choose_batch_size
from histocli.training.search_space import find_default_point
from histocli.training.study import Study, StudyWorkspace


@pytest.fixture
def study(tmp_path):
    """Return a study of three folds without trials."""
    pytest.importorskip("optuna")
    workspace = StudyWorkspace(tmp_path, study="tune")
    workspace.study_dir.mkdir(parents=True)
    return Study(workspace, TuneConfig(trials=20), "slide", {})


def add_finished(trial, means, count):
    """Add finished trials with these mean AUCs after one fold, after two and so on."""
    import optuna

    for _ in range(count):
        trial.trial.study.add_trial(
            optuna.trial.create_trial(
                params=trial.trial.params,
                distributions=trial.trial.distributions,
                value=means[-1],
                intermediate_values=dict(enumerate(means, 1)),
            )
        )


def test_a_trial_is_pruned_if_its_mean_so_far_is_below_the_median_although_it_began_higher(study):
    with study.claim() as trial:
        add_finished(trial, [0.94, 0.95], 5)
        assert not trial.should_prune()  # before the first fold
        trial.auc = [0.97]
        assert not trial.should_prune()
        trial.auc = [0.97, 0.89]  # mean 0.93
        assert trial.should_prune()
        assert trial.should_prune()  # as for a trial that is continued
        trial.auc = [0.97, 0.94]
        assert not trial.should_prune()


def test_no_trial_is_pruned_before_five_have_finished_as_many_folds(study):
    with study.claim() as trial:
        add_finished(trial, [0.94, 0.95], 4)
        add_finished(trial, [0.94], 3)
        trial.auc = [0.5, 0.5]
        assert not trial.should_prune()
        add_finished(trial, [0.94, 0.95], 1)
        assert trial.should_prune()


@pytest.mark.parametrize(
    ("device", "patches", "size"),
    [("cuda", GPU_BATCH_PATCHES, 512), ("cuda", GPU_BATCH_PATCHES - 1, 128), ("cpu", GPU_BATCH_PATCHES, 128)],
)
def test_the_default_point_has_the_batch_size_and_learning_rate_of_train(device, patches, size):
    point = find_default_point(TuneConfig(trials=1), choose_batch_size(device, patches))
    assert point["batch_size"] == size
    assert point["lr"] == RunConfig(batch_size=size).learning_rate
    nearest = find_default_point(TuneConfig(trials=1, batch_size=(64, 256)), choose_batch_size(device, patches))
    assert nearest["batch_size"] == (256 if size == 512 else 64)
