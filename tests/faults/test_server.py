"""A server that sends wrong answers to the command; tests/sources/test_download.py tests each wrong answer."""

import gzip
import re

import pytest

from tests.faults.processes import histo
from tests.faults.trees import check_whole, differences, tree
from tests.sources.pcam_layout import file_name
from tests.sources.server import FileServer, Reply, self_signed

pytestmark = pytest.mark.attack

X = file_name("valid", "x") + ".h5.gz"
PAGE = b"<!DOCTYPE html><html>quota exceeded</html>"


@pytest.fixture
def server(pcam_files):
    with FileServer(pcam_files) as server:
        yield server


def download(root, server, code=0):
    return histo(
        root, "download", "--source", "pcam", "--from", server.url().rstrip("/"), code=code, NO_PROXY="127.0.0.1"
    )


WRONG_ANSWERS = {  # what the server does with one of the files, every time -> the error message
    "another scheme": (Reply(status=302, headers={"Location": "ftp://127.0.0.1/x"}), "redirects to ftp:"),
    "a local file": (Reply(status=302, headers={"Location": "file:///etc/passwd"}), "redirects to file:"),
    "data in the address": (Reply(status=302, headers={"Location": "data:,hello"}), "redirects to data:"),
    "a page": (Reply(body=PAGE, headers={"Content-Type": "text/html"}), "sends a web page"),
    "a page in disguise": (Reply(body=PAGE), "sends a web page"),
    "a hundred megabytes of nothing": (lambda: Reply(body=gzip.compress(bytes(100 << 20))), "is truncated or damaged"),
    "other bytes": (Reply(body=b"no archive at all"), "is truncated or damaged"),
    "half a file": (Reply(body=b"\x1f\x8b\x08\x00"), "is truncated or damaged"),
    "more than fits": (Reply(body=b"x", length=10**16), "needs 10000.0 TB, and"),
}


@pytest.mark.parametrize(("reply", "message"), WRONG_ANSWERS.values(), ids=WRONG_ANSWERS)
def test_a_wrong_answer_of_a_server_is_one_error_and_a_retry_succeeds(root, server, reply, message):
    before = tree(root)
    server.script(X, forever=reply() if callable(reply) else reply)
    failed = download(root, server, code=1)
    [error] = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "root:" not in failed.stderr
    assert "Traceback" not in failed.stderr
    assert [path for path in differences(tree(root), before) if not path.startswith("downloads/")] == []
    server.forever.clear()
    (root / "downloads" / X).unlink(missing_ok=True)  # as the hint says of what came whole but is not the file
    download(root, server)
    check_whole(root)


def test_a_body_longer_than_content_length_is_cut(root, server, pcam_files):
    server.script(X, Reply(extra=b"more" * 100_000))
    download(root, server)
    assert (root / "downloads" / X).read_bytes() == pcam_files[X]


def test_a_body_that_is_cut_several_times_is_completed(root, server, pcam_files):
    server.script(X, *[Reply(cut_after=60_000)] * 4)
    download(root, server)
    assert (root / "downloads" / X).read_bytes() == pcam_files[X]
    assert server.ranges(X)[0] is None
    assert all(re.fullmatch(r"bytes=\d+-", asked) for asked in server.ranges(X)[1:])


def test_an_invalid_certificate_is_an_error(tmp_path, root, pcam_files):
    with FileServer(pcam_files, tls=self_signed(tmp_path)) as server:
        failed = download(root, server, code=1)
    assert "the certificate of https://127.0.0.1" in failed.stderr
    assert "never connects without this check" in failed.stderr
    assert not any((root / "downloads").glob("camelyon*"))
