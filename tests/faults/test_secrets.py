"""Tokens: never printed, logged or written, and never sent to another host after a redirect."""

import json

import pytest

from histocli.sources import SourceContext
from histocli.sources.kaggle_client import download_competition
from tests.faults.processes import histo
from tests.sources.kaggle_layout import layout_files, make_zip
from tests.sources.kaggle_server import TOKEN, answer
from tests.sources.server import FileServer, Reply

pytestmark = [
    pytest.mark.attack,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),  # Kaggle's client leaves sockets about
]

PASSWORD, QUERY = "s3cr3t-password", "s3cr3t-query"


def secrets_in(folder, *texts):
    """Return the files and texts that contain a secret."""
    found = [str(path) for path in folder.rglob("*") if path.is_file() and contains(path.read_bytes())]
    return found + [text for text in texts if contains(text.encode())]


def contains(data):
    return any(secret.encode() in data for secret in (PASSWORD, QUERY, TOKEN))


def test_credentials_in_an_address_are_used_but_never_printed_or_stored(tmp_path, pcam_files):
    root = tmp_path / "workspace"
    with FileServer(pcam_files) as server:
        address = server.url().rstrip("/").replace("//", f"//user:{PASSWORD}@") + f"?token={QUERY}"
        line = ["download", "--source", "pcam", "--from", address]
        env = {"NO_PROXY": "*", "HISTO_DEBUG": "1", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
        planned = histo(root, *line, "--dry-run", "--json", **env)
        done = histo(root, "-v", *line, "--json", **env)
        again = histo(root, *line, "--json", **env)
        other = histo(root, "download", "--source", "pcam", "--from", address.replace(QUERY, "another"), code=1, **env)
        assert {"Authorization"} <= server.requests[0].headers.keys()
    texts = [text for process in (planned, done, again, other) for text in (process.stdout, process.stderr)]
    assert secrets_in(tmp_path, *texts) == []
    assert "is packed already" in again.stderr  # it is known to be the same address all the same
    assert "packed with other options" in other.stderr
    [kept] = json.loads((root / "data" / "pcam" / "dataset.json").read_text())["request"]["from"]
    assert kept.startswith(f"http://127.0.0.1:{server.port}/ sha256:")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"], ids=["name", "port"])
def test_credentials_in_an_address_are_not_sent_to_another_host(tmp_path, pcam_files, host):
    with FileServer(pcam_files) as elsewhere, FileServer() as server:
        server.reply_for = lambda path: Reply(
            status=302, body=b"", headers={"Location": elsewhere.url(path.lstrip("/"), host=host)}
        )
        address = server.url().rstrip("/").replace("//", f"//user:{PASSWORD}@")
        histo(tmp_path / "w", "download", "--source", "pcam", "--from", address, NO_PROXY="*")
        assert all("Authorization" in request.headers for request in server.requests)
        assert len(elsewhere.requests) > 3
        assert not any("Authorization" in request.headers for request in elsewhere.requests)


@pytest.mark.parametrize(
    "reply",
    [Reply(status=401), Reply(status=404), Reply(status=302, headers={"Location": "file:///etc/passwd"})],
    ids=["401", "404", "file"],
)
def test_an_error_does_not_print_credentials(tmp_path, pcam_files, reply):
    with FileServer(pcam_files) as server:
        server.reply_for = lambda path: reply
        address = server.url().rstrip("/").replace("//", f"//user:{PASSWORD}@") + f"?token={QUERY}"
        env = {"NO_PROXY": "*", "HISTO_DEBUG": "1", "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
        failed = histo(tmp_path / "w", "download", "--source", "pcam", "--from", address, code=1, **env)
    assert secrets_in(tmp_path, failed.stdout, failed.stderr) == []


def test_a_kaggle_token_is_not_sent_to_another_host(kaggle, tmp_path, policy, token, capfd):
    body = make_zip(layout_files())
    with FileServer({"archive.zip": body}) as elsewhere:
        to = {"Location": elsewhere.url("archive.zip", host="localhost")}
        answer(kaggle, forever=Reply(status=302, body=b"", headers=to))
        download_competition(SourceContext(tmp_path / "downloads", policy=policy))
        assert any(TOKEN in str(request.headers) or "Authorization" in request.headers for request in kaggle.requests)
        assert elsewhere.requests
        assert not any("Authorization" in request.headers for request in elsewhere.requests)
        assert not any(TOKEN in str(request.headers) for request in elsewhere.requests)
    assert secrets_in(tmp_path, *capfd.readouterr()) == []


def test_a_token_in_the_environment_is_not_written_to_a_run(root):
    """Neither the files of a run nor the log of a bug contain the environment."""
    env = {"KAGGLE_API_TOKEN": TOKEN, "KAGGLE_KEY": TOKEN, "XDG_STATE_HOME": str(root / "state")}
    histo(root, "-v", "train", "--batch-size", 8, "--device", "cpu", "--epochs", 1, "--name", "kept", **env)
    histo(root, "-v", "eval", "--ckpt", "kept", "--device", "cpu", **env)
    assert secrets_in(root) == []
