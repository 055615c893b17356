"""The provenance that a run records."""

from histocli.training.provenance import find_git_commit


def test_the_commit_is_not_known_on_a_machine_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_git_commit() is None
