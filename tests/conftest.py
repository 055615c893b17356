"""Every test has its own home and workspace, and a fixed number of torch threads."""

import os
import signal
from pathlib import Path

import pytest

pytest_plugins = ("tests.cli", "tests.sources.pcam_layout", "tests.sources.kaggle_server")  # modules with fixtures

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
FP32 = {"HISTO_PRECISION": "fp32"}


def pytest_configure():
    """Hear Ctrl-C, and compute in fp32 where a test asks for nothing else, in fixtures of every scope.

    What tests start hears Ctrl-C and a closed terminal then too: a shell lets what it starts in the background ignore
    the one, `nohup` the other. In fp32 two ways of computing the same agree to many digits, also on processors whose
    bf16 units `auto` would take.
    """
    os.environ.update(FP32)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the tests run in several processes
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def isolated(monkeypatch, tmp_path_factory):
    """Point HOME, the platform's folders and the workspace into a temporary folder; forget other HISTO_ variables."""
    home = tmp_path_factory.mktemp("home")
    for name in [name for name in os.environ if name.startswith(("HISTO_", "KAGGLE")) and name not in FP32]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("CI", "GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shared_data() -> Path:
    """The real patches, where they are."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real patches (../shared/data) are not here")
    return SHARED_DATA
