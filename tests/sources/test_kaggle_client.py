"""Kaggle's client, with a local server instead of Kaggle."""

from dataclasses import replace

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.sources import SourceContext
from histocli.sources.kaggle import KaggleSource
from histocli.sources.kaggle_client import COMPETITION, download_competition, find_competition_dir
from tests.sources.kaggle_layout import check_all, layout_files, make_zip
from tests.sources.kaggle_server import TOKEN, answer
from tests.sources.server import Reply

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the client leaves sockets to the collector


@pytest.fixture(scope="module")
def layout():
    return layout_files()


@pytest.fixture
def downloads(tmp_path):
    return tmp_path / "downloads"


def archive_reply(layout):
    return Reply(body=make_zip(layout), headers={"Content-Type": "application/zip"})


def test_a_download_without_credentials_gives_a_hint_to_make_a_token(kaggle, downloads, policy):
    with pytest.raises(HistoError, match="401") as caught:
        KaggleSource(None, SourceContext(downloads, policy=policy)).fetch()
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
def test_a_refused_request_gives_a_hint_without_the_token(
    kaggle, downloads, policy, token, capfd, status, message, hint
):
    answer(kaggle, forever=Reply(status=status, body=b"{}"))
    with pytest.raises(HistoError, match=message) as caught:
        KaggleSource(None, SourceContext(downloads, policy=policy)).fetch()
    assert hint in caught.value.hint
    assert len(kaggle.requests) == 1
    reported = "".join(capfd.readouterr()) + str(caught.value) + caught.value.hint
    assert TOKEN not in reported


def test_the_archive_is_downloaded_unpacked_and_kept(kaggle, downloads, policy, token, layout, capfd):
    answer(kaggle, Reply(status=503), forever=archive_reply(layout))
    source = KaggleSource(None, SourceContext(downloads, policy=policy))
    assert source.total is None
    assert [file.is_here for file in source.plan()] == [False]
    source.fetch()
    check_all(source)
    assert [file.is_here for file in KaggleSource(None, SourceContext(downloads)).plan()] == [True]
    assert find_competition_dir(downloads).is_relative_to(downloads)
    captured = capfd.readouterr()
    assert captured.out == ""  # stdout is for results
    assert TOKEN not in captured.err
    stored = [path for path in downloads.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert stored == []


def test_without_a_connection_the_earlier_download_is_used(kaggle, downloads, policy, token, layout, monkeypatch):
    answer(kaggle, forever=archive_reply(layout))
    download_competition(SourceContext(downloads, policy=policy))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    source = KaggleSource(None, SourceContext(downloads, policy=policy))
    source.fetch()
    check_all(source)


def test_a_connection_that_always_fails_is_an_error(kaggle, downloads, policy, token):
    answer(kaggle, forever=Reply(status=500))
    with pytest.raises(HistoError, match=r"HTTP 500 \(3 tries\)"):
        download_competition(SourceContext(downloads, policy=policy))


def test_cut_connections_are_resumed(kaggle, downloads, policy, token, layout):
    layout = layout | {"padding.bin": np.random.default_rng(1).bytes(5_000_000)}
    whole = archive_reply(layout)
    cut = replace(whole, cut_after=1_500_000)
    # Every try asks twice: for the archive, and, where a part of it is here, for the rest.
    answer(kaggle, cut, *[whole, cut] * 4, forever=whole)
    download_competition(SourceContext(downloads, policy=policy))
    ranges = [request.range for request in kaggle.requests if request.range]
    assert ranges == [f"bytes={k << 20}-" for k in range(1, 6)]  # the client keeps whole pieces of 1 MiB
    source = KaggleSource(None, SourceContext(downloads))
    source.fetch()
    check_all(source)


@pytest.mark.parametrize("body", [b"<html>quota", b"PK\x03\x04 cut"])
def test_a_damaged_archive_is_downloaded_again(kaggle, downloads, policy, token, layout, body):
    answer(kaggle, Reply(body=body), forever=archive_reply(layout))
    with pytest.raises(HistoError, match="damaged"):
        download_competition(SourceContext(downloads, policy=policy))
    assert len(list(download_competition(SourceContext(downloads, policy=policy)).glob("train/*.tif"))) > 0


def test_an_archive_with_a_damaged_image_is_an_error(kaggle, downloads, policy, token, layout):
    body = bytearray(make_zip(layout))
    body[len(body) // 2] ^= 0xFF
    answer(kaggle, forever=Reply(body=bytes(body)))
    with pytest.raises(HistoError, match="damaged"):
        download_competition(SourceContext(downloads, policy=policy))
    assert list(downloads.rglob("*.complete")) == []


def test_the_cache_folder_of_the_client_is_used_if_it_is_set(kaggle, tmp_path, downloads, token, layout, monkeypatch):
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "cache"))
    answer(kaggle, forever=archive_reply(layout))
    assert download_competition(SourceContext(downloads)).is_relative_to(tmp_path / "cache")
    assert not downloads.exists()


def test_a_folder_that_cannot_be_written_is_an_error(kaggle, downloads, policy, token, layout):
    find_competition_dir(downloads).parent.mkdir(parents=True)
    find_competition_dir(downloads).write_text("in the way")
    answer(kaggle, forever=archive_reply(layout))
    with pytest.raises(HistoError, match="cannot write"):
        download_competition(SourceContext(downloads, policy=policy))


def test_a_malformed_token_is_not_printed(kaggle, downloads, policy, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN + "\nX: y")
    monkeypatch.setenv("KAGGLE_USERNAME", "user\n")
    monkeypatch.setenv("KAGGLE_KEY", TOKEN + "\nX: y")
    answer(kaggle, forever=Reply(status=401, body=b"{}"))
    with pytest.raises(HistoError, match="credentials") as caught:
        download_competition(SourceContext(downloads, policy=policy))
    reported = "".join(capfd.readouterr()) + str(caught.value) + caught.value.hint
    assert TOKEN not in reported
    assert caught.value.__suppress_context__


def test_a_broken_kaggle_json_is_an_error(kaggle, downloads, policy, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "kaggle.json").write_text('{"username": "user", "key": "' + TOKEN)
    with pytest.raises(HistoError, match="malformed") as caught:
        download_competition(SourceContext(downloads, policy=policy))
    assert TOKEN not in str(caught.value) + caught.value.hint


def test_free_space_is_checked_before_the_download(downloads, token, monkeypatch):
    monkeypatch.setattr("histocli.sources.kaggle_client.ARCHIVE_BYTES", 10**18)
    with pytest.raises(HistoError, match=r"1000000\.0 TB"):
        KaggleSource(None, SourceContext(downloads)).fetch()
