"""Settings of all tests: each has its own home folder and workspace."""

import gc
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

pytest_plugins = (  # modules with fixtures
    "tests.cli",
    "tests.models.encoder_hub",
    "tests.models.hub",
    "tests.sources.pcam_layout",
    "tests.sources.kaggle_server",
)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
COMPUTING = {"HISTO_PRECISION": "fp32"}
if Path("/dev/nvidiactl").exists():  # only tests/cuda uses a GPU: it asks for one by name
    COMPUTING["HISTO_DEVICE"] = "cpu"


def list_options(environment):
    """Return the names of the variables that give options to `histo` or to Kaggle's client."""
    return {name for name in environment if name.startswith(("HISTO_", "KAGGLE"))}


def pytest_configure():
    """Forget the developer's options, handle Ctrl-C, compute in fp32, and do not wait for the disk.

    The options are forgotten here too, because fixtures of a module run before `isolate_environment`.

    Processes that tests start then handle Ctrl-C and a closed terminal too. A shell lets background processes ignore
    Ctrl-C, and `nohup` lets them ignore a closed terminal. In fp32, two ways to compute the same result agree to many
    digits, even on processors for which `auto` chooses bf16.

    The files of tests need not survive a power loss, and many tests would mostly wait for the disk. `fstat` refuses a
    wrong descriptor as `fsync` does. `faults/test_power.py` tests that files are flushed: it records the calls, and
    traces the system calls of a real process.
    """
    os.fsync = os.fstat
    sys.dont_write_bytecode = False  # else each process that tests start compiles all modules again
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in list_options(os.environ) - {"HISTO_KILL_TEST"}:  # test_kill.py reads it
        del os.environ[name]
    os.environ.update(COMPUTING)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # the tests run in several processes
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_finish():
    """Spare the garbage collector all that is imported; it would look through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def homes(tmp_path_factory):
    """Return the folder of all home folders; for each folder of its own, pytest would list those of all tests."""
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(autouse=True)
def isolate_environment(monkeypatch, homes):
    """Point HOME, the platform's folders and the workspace into a temporary folder; forget other HISTO_ variables."""
    home = Path(tempfile.mkdtemp(dir=homes))
    for name in list_options(os.environ) - COMPUTING.keys():
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
