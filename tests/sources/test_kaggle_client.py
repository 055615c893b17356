"""Kaggle's own client, against a server of ours in Kaggle's place."""

import gc
import importlib.util
import warnings
from dataclasses import replace

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.sources.kaggle import KaggleSource
from histocli.sources.kaggle_client import COMPETITION, competition_dir, download_competition
from histocli.sources.retry import RetryPolicy
from tests.sources.kaggle_layout import check_all, layout_files, zipped
from tests.sources.server import FileServer, Reply

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client leaves sockets to the collector


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
        monkeypatch.setenv("KAGGLE_API_ENDPOINT", server.url().rstrip("/"))  # how older clients are told
        if importlib.util.find_spec("kagglesdk"):
            import kagglesdk.kaggle_env as env

            monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
            monkeypatch.setitem(env._env_to_endpoint, env.KaggleEnv.LOCAL, server.url().rstrip("/"))
        yield server
    with warnings.catch_warnings():  # before another module's tests trip over the client's sockets
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="module")
def layout():
    return layout_files()


@pytest.fixture
def downloads(tmp_path):
    return tmp_path / "downloads"


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


def archive_reply(layout):
    return Reply(body=zipped(layout), headers={"Content-Type": "application/zip"})


def test_no_credentials(kaggle, downloads, policy):
    with pytest.raises(HistoError, match="401") as caught:
        KaggleSource(None, downloads, policy=policy).fetch()
    assert "https://www.kaggle.com/settings/api" in caught.value.hint
    assert "--from" in caught.value.hint
    assert kaggle.requests == []


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (401, "credentials are missing or wrong", "KAGGLE_API_TOKEN"),
        (403, "rules", f"https://www.kaggle.com/competitions/{COMPETITION}/rules"),
        (404, "HTTP 404", "later"),
    ],
)
def test_a_refusal_says_what_to_do_and_never_the_token(kaggle, downloads, policy, token, capfd, status, message, hint):
    answer(kaggle, forever=Reply(status=status, body=b"{}"))
    with pytest.raises(HistoError, match=message) as caught:
        KaggleSource(None, downloads, policy=policy).fetch()
    assert hint in caught.value.hint
    assert len(kaggle.requests) == 1
    told = "".join(capfd.readouterr()) + str(caught.value) + caught.value.hint
    assert TOKEN not in told


def test_the_archive_is_fetched_unpacked_and_kept(kaggle, downloads, policy, token, layout, capfd):
    answer(kaggle, Reply(status=503), forever=archive_reply(layout))
    source = KaggleSource(None, downloads, policy=policy)
    assert source.total is None
    assert [file.is_here for file in source.plan()] == [False]
    source.fetch()
    check_all(source)
    assert [file.is_here for file in KaggleSource(None, downloads).plan()] == [True]
    assert competition_dir(downloads).is_relative_to(downloads)
    captured = capfd.readouterr()
    assert captured.out == ""  # stdout is for results
    assert TOKEN not in captured.err
    stored = [path for path in downloads.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert stored == []


def test_without_a_connection_what_was_fetched_before_is_taken(kaggle, downloads, policy, token, layout, monkeypatch):
    answer(kaggle, forever=archive_reply(layout))
    download_competition(downloads, policy=policy)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    source = KaggleSource(None, downloads, policy=policy)
    source.fetch()
    check_all(source)


def test_a_connection_that_stays_away_is_given_up(kaggle, downloads, policy, token):
    answer(kaggle, forever=Reply(status=500))
    with pytest.raises(HistoError, match=r"HTTP 500 \(3 tries\)"):
        download_competition(downloads, policy=policy)


def test_cut_connections_are_resumed(kaggle, downloads, policy, token, layout):
    layout = layout | {"padding.bin": np.random.default_rng(1).bytes(5_000_000)}
    whole = archive_reply(layout)
    cut = replace(whole, cut_after=1_500_000)
    # Every try asks twice: for the archive, and, where a part of it is here, for the rest.
    answer(kaggle, cut, *[whole, cut] * 4, forever=whole)
    download_competition(downloads, policy=policy)
    ranges = [request.range for request in kaggle.requests if request.range]
    assert ranges == [f"bytes={k << 20}-" for k in range(1, 6)]  # the client keeps whole pieces of 1 MiB
    source = KaggleSource(None, downloads)
    source.fetch()
    check_all(source)


@pytest.mark.parametrize("body", [b"<html>quota", b"PK\x03\x04 cut"])
def test_a_damaged_archive_is_fetched_anew(kaggle, downloads, policy, token, layout, body):
    answer(kaggle, Reply(body=body), forever=archive_reply(layout))
    with pytest.raises(HistoError, match="damaged"):
        download_competition(downloads, policy=policy)
    assert len(list(download_competition(downloads, policy=policy).glob("train/*.tif"))) > 0


def test_an_archive_with_a_damaged_image_is_an_error(kaggle, downloads, policy, token, layout):
    body = bytearray(zipped(layout))
    body[len(body) // 2] ^= 0xFF
    answer(kaggle, forever=Reply(body=bytes(body)))
    with pytest.raises(HistoError, match="damaged"):
        download_competition(downloads, policy=policy)
    assert list(downloads.rglob("*.complete")) == []


def test_the_clients_own_folder_is_used_where_it_is_set(kaggle, tmp_path, downloads, token, layout, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    answer(kaggle, forever=archive_reply(layout))
    assert download_competition(downloads).is_relative_to(tmp_path / "cache")
    assert not downloads.exists()


def test_a_folder_that_cannot_be_written_is_an_error(kaggle, downloads, policy, token, layout):
    competition_dir(downloads).parent.mkdir(parents=True)
    competition_dir(downloads).write_text("in the way")
    answer(kaggle, forever=archive_reply(layout))
    with pytest.raises(HistoError, match="cannot write"):
        download_competition(downloads, policy=policy)


def test_a_malformed_token_is_not_quoted(kaggle, downloads, policy, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN + "\nX: y")
    monkeypatch.setenv("KAGGLE_USERNAME", "user\n")
    monkeypatch.setenv("KAGGLE_KEY", TOKEN + "\nX: y")
    answer(kaggle, forever=Reply(status=401, body=b"{}"))
    with pytest.raises(HistoError, match="credentials") as caught:
        download_competition(downloads, policy=policy)
    told = "".join(capfd.readouterr()) + str(caught.value) + caught.value.hint
    assert TOKEN not in told
    assert caught.value.__suppress_context__


def test_a_broken_kaggle_json_is_an_error(kaggle, downloads, policy, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "kaggle.json").write_text('{"username": "user", "key": "' + TOKEN)
    with pytest.raises(HistoError, match="malformed") as caught:
        download_competition(downloads, policy=policy)
    assert TOKEN not in str(caught.value) + caught.value.hint


def test_space_is_checked_first(downloads, token, monkeypatch):
    monkeypatch.setattr("histocli.sources.kaggle_client.ARCHIVE_BYTES", 10**18)
    with pytest.raises(HistoError, match=r"1000000\.0 TB"):
        KaggleSource(None, downloads).fetch()
