"""A local server that Kaggle's client downloads from."""

import gc
import importlib.util
import warnings

import pytest

from histocli.sources.retry import RetryPolicy
from tests.sources.server import FileServer, Reply

TOKEN = "KGAT_s3cr3t"


@pytest.fixture
def kaggle(monkeypatch, tmp_path):
    """A server in Kaggle's place, a home without credentials, and a way to answer the client."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLEHUB_CACHE", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr("histocli.sources.kaggle_client.ARCHIVE_BYTES", 0)
    monkeypatch.setattr("histocli.sources.kaggle_client._UNPACKED_BYTES", 0)
    with FileServer() as server:
        monkeypatch.setenv("KAGGLE_API_ENDPOINT", server.url().rstrip("/"))  # older clients read this variable
        if importlib.util.find_spec("kagglesdk"):
            import kagglesdk.kaggle_env as env

            monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
            monkeypatch.setitem(env._env_to_endpoint, env.KaggleEnv.LOCAL, server.url().rstrip("/"))
        if importlib.util.find_spec("kagglehub"):  # it inspects the whole stack of calls six times a request
            monkeypatch.setattr("kagglehub.clients.get_user_agent", lambda: "histo-tests", raising=False)
        yield server
    with warnings.catch_warnings():  # before another module's tests trip over the client's sockets
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def answer(server, *replies, forever=None):
    """Script the answers to whatever path the client asks."""
    server.reply_for = lambda path, waiting=list(replies): waiting.pop(0) if waiting else (forever or Reply())


@pytest.fixture
def policy():
    return RetryPolicy(tries=3, sleep=lambda seconds: None)


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setenv("KAGGLE_USERNAME", "user")
    monkeypatch.setenv("KAGGLE_KEY", TOKEN)
