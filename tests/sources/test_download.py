"""Downloads from a local server that fails in many ways."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from histocli.errors import HistoError
from histocli.fs import format_bytes
from histocli.sources.download import compute_md5, download_file, find_remote_size, is_complete, read_recorded_md5
from histocli.sources.http import MissingFileError, redact_url
from histocli.sources.retry import RetryPolicy
from tests.sources.server import FileServer, Reply, self_signed

BODY = bytes(range(256)) * 4000  # 1 MB: some chunks long
MD5 = hashlib.md5(BODY).hexdigest()
OTHER = BODY[::-1]


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def server():
    with FileServer({"patches.h5.gz": BODY}) as running:
        yield running


@pytest.fixture
def target(tmp_path):
    return tmp_path / "downloads" / "patches.h5.gz"


@pytest.fixture
def waits():
    return []


@pytest.fixture
def policy(waits):
    return RetryPolicy(tries=3, first_wait=1.0, longest_wait=30.0, timeout=5.0, sleep=waits.append)


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def leave_part(server, target, policy, size: int) -> None:
    """Leave a part of a download, as after a kill: the connection ends after `size` bytes, and the client stops."""
    server.script("patches.h5.gz", Reply(cut_after=size))
    with pytest.raises(HistoError, match="too early"):
        download_file(server.url("patches.h5.gz"), target, policy=RetryPolicy(tries=1, sleep=policy.sleep))
    assert part_of(target).stat().st_size == size
    assert not target.exists()
    server.requests.clear()


def test_a_download_writes_the_whole_file_and_nothing_else(server, target, policy, waits):
    seen = []
    given = download_file(
        server.url("patches.h5.gz?download=1"),
        target,
        md5=MD5,
        on_progress=lambda done, total: seen.append((done, total)),
        policy=policy,
    )
    assert given == target
    assert target.read_bytes() == BODY
    assert sorted(p.name for p in target.parent.iterdir()) == ["patches.h5.gz", "patches.h5.gz.json"]
    assert seen[-1] == (len(BODY), len(BODY))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert waits == []


def test_an_empty_file_can_be_downloaded(server, target, policy):
    server.files["empty.csv"] = b""
    assert download_file(server.url("empty.csv"), target, policy=policy).read_bytes() == b""


def test_a_second_run_needs_no_network(target, policy):
    with FileServer({"patches.h5.gz": BODY}) as server:
        url = server.url("patches.h5.gz")
        download_file(url, target, policy=policy)
    seen = []
    download_file(url, target, on_progress=lambda done, total: seen.append((done, total)), policy=policy)
    download_file(url, target, md5=MD5, policy=policy)
    assert seen == [(len(BODY), len(BODY))]
    assert read_recorded_md5(target) == MD5


def test_a_file_copied_by_hand_is_used_if_its_checksum_is_right(target, policy):
    target.parent.mkdir()
    target.write_bytes(BODY)
    dead = "http://127.0.0.1:9/patches.h5.gz"
    assert download_file(dead, target, md5=MD5, policy=policy) == target
    assert not is_complete(dead, target.with_name("absent"), MD5)


def test_a_file_copied_by_hand_with_a_wrong_checksum_is_downloaded(server, target, policy):
    target.parent.mkdir()
    target.write_bytes(OTHER)
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY


def test_a_file_changed_after_the_download_is_downloaded_again(server, target, policy):
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    target.write_bytes(OTHER)
    os.utime(target, ns=(0, 0))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert compute_md5(target) == MD5


def test_a_file_from_another_address_is_not_used(server, target, policy):
    download_file(server.url("patches.h5.gz"), target, policy=policy)
    server.files["mirror/patches.h5.gz"] = OTHER
    download_file(server.url("mirror/patches.h5.gz"), target, policy=policy)
    assert target.read_bytes() == OTHER


def test_force_starts_over(server, target, policy):
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    leave_part(server, target.with_name("again"), policy, 1000)
    server.files["patches.h5.gz"] = OTHER
    download_file(server.url("patches.h5.gz"), target, force=True, policy=policy)
    assert target.read_bytes() == OTHER
    download_file(server.url("patches.h5.gz"), target.with_name("again"), force=True, policy=policy)
    assert server.ranges("patches.h5.gz") == [None, None]


def test_a_cut_connection_is_resumed_at_the_same_byte(server, target, policy, waits):
    server.script("patches.h5.gz", *(Reply(cut_after=200_000) for _ in range(4)))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY
    expected = [None, *(f"bytes={k * 200_000}-" for k in range(1, 5))]
    assert server.ranges("patches.h5.gz") == expected
    assert all(request.headers["If-Range"].startswith('"') for request in server.requests[1:])
    assert len(waits) == 4  # every cut made progress, so the limit of three tries was never near


def test_a_later_call_resumes_an_incomplete_download(server, target, policy):
    leave_part(server, target, policy, 300_000)
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert server.ranges("patches.h5.gz") == ["bytes=300000-"]
    assert target.read_bytes() == BODY


def test_a_download_of_a_killed_process_is_resumed(server, target, policy):
    server.script("patches.h5.gz", Reply(stall_after=400_000))
    code = (
        "import sys; from pathlib import Path; from histocli.sources.download import download_file\n"
        "download_file(sys.argv[1], Path(sys.argv[2]), on_progress=lambda done, total: print(done, flush=True))"
    )
    arguments = [sys.executable, "-c", code, server.url("patches.h5.gz"), str(target)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if int(line) == 400_000:
                process.kill()
    server.requests.clear()
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert server.ranges("patches.h5.gz") == ["bytes=400000-"]
    assert target.read_bytes() == BODY


def test_a_complete_part_of_a_killed_process_needs_no_network(server, target, policy):
    leave_part(server, target, policy, len(BODY) - 1)
    with part_of(target).open("ab") as part:
        part.write(BODY[-1:])
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert server.requests == []
    assert target.read_bytes() == BODY


def test_a_stalled_connection_times_out_and_is_resumed(server, target, waits):
    server.script("patches.h5.gz", Reply(stall_after=500_000))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=RetryPolicy(timeout=0.2, sleep=waits.append))
    assert server.ranges("patches.h5.gz") == [None, "bytes=500000-"]


def test_a_download_without_range_support_starts_again(server, target, policy):
    server.script("patches.h5.gz", Reply(cut_after=700_000), Reply(ranges=False))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY


def test_a_server_without_ranges_that_always_fails_is_an_error(server, target, policy):
    server.script("patches.h5.gz", forever=Reply(cut_after=700_000, ranges=False))
    with pytest.raises(HistoError, match=r"3 tries") as caught:
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert "continues" in caught.value.hint
    assert not target.exists()


def test_pieces_of_two_versions_are_not_joined(server, target, policy):
    leave_part(server, target, policy, 300_000)
    server.files["patches.h5.gz"] = OTHER
    download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert target.read_bytes() == OTHER


def test_without_etags_the_checksum_finds_wrongly_joined_pieces(server, target, policy):
    server.script(
        "patches.h5.gz",
        Reply(cut_after=300_000, validators=False, body=OTHER),
        forever=Reply(validators=False),
    )
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY
    assert server.ranges("patches.h5.gz") == [None, "bytes=300000-", None]


def test_a_changed_size_starts_the_download_again(server, target, policy):
    server.script(
        "patches.h5.gz",
        Reply(cut_after=300_000, validators=False),
        forever=Reply(validators=False, body=BODY * 2),
    )
    download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert target.read_bytes() == BODY * 2


def test_status_416_means_complete_if_the_sizes_agree(server, target, policy):
    server.script("patches.h5.gz", Reply(length=len(BODY) + 10, cut_after=len(BODY)))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert server.ranges("patches.h5.gz") == [None, f"bytes={len(BODY)}-"]
    assert target.read_bytes() == BODY


def test_status_416_means_start_again_if_the_sizes_differ(server, target, policy):
    leave_part(server, target, policy, 900_000)
    server.files["patches.h5.gz"] = BODY[:500_000]
    server.forever["patches.h5.gz"] = Reply(validators=False)
    server.script("patches.h5.gz", Reply(status=416, headers={"Content-Range": "bytes */500000"}, body=b""))
    download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert target.read_bytes() == BODY[:500_000]


def test_status_416_for_a_whole_file_is_an_error(server, target, policy):
    server.script("patches.h5.gz", forever=Reply(status=416))
    with pytest.raises(HistoError, match="HTTP 416"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)


def test_retry_after_is_respected_up_to_a_limit(server, target, policy, waits):
    server.script(
        "patches.h5.gz",
        Reply(status=429, headers={"Retry-After": "7"}),
        Reply(status=503, headers={"Retry-After": "86400"}),
    )
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert waits == [7.0, 30.0]


def test_retry_after_may_be_a_date(server, target, policy, waits):
    server.script(
        "patches.h5.gz",
        Reply(status=429, headers={"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Reply(status=429, headers={"Retry-After": "soon"}),
    )
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert waits[0] == 0.0
    assert 1.0 <= waits[1] <= 2.0


def test_server_errors_are_retried_with_growing_delays_then_raised(server, target, waits):
    server.script("patches.h5.gz", forever=Reply(status=500))
    policy = RetryPolicy(tries=6, first_wait=1.0, longest_wait=5.0, sleep=waits.append)
    with pytest.raises(HistoError, match=r"HTTP 500.*6 tries"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert len(waits) == 5
    assert all(0.5 * 2**k <= wait <= 2**k for k, wait in enumerate(waits[:3]))
    assert waits[4] == 5.0


def test_a_retry_after_status_500_succeeds(server, target, policy):
    server.script("patches.h5.gz", Reply(status=500, body=b"<html>oops"), Reply(status=502))
    assert download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy).read_bytes() == BODY


def test_a_refused_connection_is_an_error_after_some_tries(target, policy, waits):
    with FileServer() as gone:
        url = gone.url("patches.h5.gz")
    with pytest.raises(HistoError, match="refused"):
        download_file(url, target, policy=policy)
    assert len(waits) == 2


@pytest.mark.parametrize("reply", [Reply(extra=b"more" * 10_000), Reply(headers={"Connection": "close"}, extra=b"x")])
def test_a_body_longer_than_content_length_is_stopped(server, target, policy, reply):
    server.script("patches.h5.gz", reply)
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY


def test_a_too_small_content_length_is_found_by_the_checksum(server, target, policy):
    server.script("patches.h5.gz", forever=Reply(length=1000))
    with pytest.raises(HistoError, match="has the MD5"):
        download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert list(target.parent.iterdir()) == []
    server.script("patches.h5.gz", Reply(length=1000))
    server.forever.clear()
    assert download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy).read_bytes() == BODY


def test_a_too_large_content_length_is_an_error(server, target, policy):
    server.script("patches.h5.gz", forever=Reply(length=len(BODY) + 1, ranges=False))
    with pytest.raises(HistoError, match="too early"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert not target.exists()


@pytest.mark.parametrize("length", [None, "-5", "many", ""])
def test_a_body_with_an_invalid_content_length_is_read_to_its_end(server, target, policy, length):
    server.script("patches.h5.gz", Reply(length=length))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY


def test_a_piece_of_another_range_is_not_joined(server, target, policy):
    leave_part(server, target, policy, 300_000)
    wrong = Reply(status=206, headers={"Content-Range": f"bytes 10-{len(BODY) - 1}/{len(BODY)}"}, body=BODY[10:])
    server.script("patches.h5.gz", wrong)
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert server.ranges("patches.h5.gz") == ["bytes=300000-", None]


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"<p>Quota exceeded", headers={"Content-Type": "text/html; charset=utf-8"}),
        Reply(body=b"\n\n<!DOCTYPE html><title>Log in</title>"),
        Reply(body=b"\xef\xbb\xbf<HTML lang=en>"),
    ],
)
def test_a_web_page_instead_of_the_file_is_an_error(server, target, policy, reply):
    leave_part(server, target, policy, 300_000)
    server.script("patches.h5.gz", reply)
    with pytest.raises(HistoError, match="web page") as caught:
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert "browser" in caught.value.hint
    assert part_of(target).stat().st_size == 300_000  # what was there is not lost to the page


def test_wrong_bytes_are_deleted_and_downloaded_once_more(server, target, policy):
    server.script("patches.h5.gz", Reply(body=OTHER))
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY
    assert len(server.requests) == 2


def test_wrong_bytes_twice_are_an_error_and_leave_no_file(server, target, policy):
    server.files["patches.h5.gz"] = OTHER
    with pytest.raises(HistoError, match=MD5) as caught:
        download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert "--from" in caught.value.hint
    assert len(server.requests) == 2
    assert list(target.parent.iterdir()) == []


def test_a_damaged_part_is_found_by_the_checksum(server, target, policy):
    leave_part(server, target, policy, 300_000)
    part_of(target).write_bytes(b"\0" * 300_000)  # as a loss of power can leave it
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("note", [b"", b"[1]", b'{"url": 3', b"\xff\xfe"])
def test_a_damaged_record_starts_the_download_again(server, target, policy, note):
    leave_part(server, target, policy, 300_000)
    part_of(target).with_name(part_of(target).name + ".json").write_bytes(note)
    download_file(server.url("patches.h5.gz"), target, md5=MD5, policy=policy)
    assert server.ranges("patches.h5.gz") == [None]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(server, target, policy, status):
    server.script("here", forever=Reply(status=status, headers={"Location": server.url("patches.h5.gz")}, body=b""))
    download_file(server.url("here"), target, md5=MD5, policy=policy)
    assert target.read_bytes() == BODY
    assert find_remote_size(server.url("here"), policy) == len(BODY)


def test_a_redirected_download_is_resumed(server, target, policy):
    server.script("here", forever=Reply(status=302, headers={"Location": server.url("patches.h5.gz")}, body=b""))
    server.script("patches.h5.gz", Reply(cut_after=300_000))
    download_file(server.url("here"), target, md5=MD5, policy=policy)
    assert server.ranges("patches.h5.gz") == [None, "bytes=300000-"]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x", "//"])
def test_a_redirect_to_another_scheme_is_refused(server, target, policy, place):
    server.script("patches.h5.gz", forever=Reply(status=302, headers={"Location": place}, body=b""))
    with pytest.raises(HistoError, match="redirect"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert not target.exists()


def test_circular_redirects_are_refused(server, target, policy):
    server.script("a", forever=Reply(status=302, headers={"Location": "/b"}, body=b""))
    server.script("b", forever=Reply(status=302, headers={"Location": "/a"}, body=b""))
    with pytest.raises(HistoError, match="redirects too often"):
        download_file(server.url("a"), target, policy=policy)
    assert len(server.requests) < 20


def test_credentials_are_sent_only_to_their_host_and_never_printed_or_stored(server, target, policy):
    server.files["kept"] = BODY
    server.script("same", Reply(status=302, headers={"Location": "/kept"}, body=b""))
    there = server.url("patches.h5.gz", host="localhost")
    server.script("other", Reply(status=302, headers={"Location": there}, body=b""))
    secret = server.url().replace("http://", "http://user:pa%40ss@")
    download_file(secret + "same", target, policy=policy)
    download_file(secret + "other", target.with_name("two"), policy=policy)
    sent = {request.path: request.headers.get("Authorization") for request in server.requests}
    basic = "Basic " + base64.b64encode(b"user:pa@ss").decode()
    assert sent == {"same": basic, "kept": basic, "other": basic, "patches.h5.gz": None}
    with pytest.raises(HistoError) as caught:
        download_file(secret + "absent?token=t0ken", target, policy=policy)
    reported = str(caught.value) + caught.value.hint
    stored = b"".join(p.read_bytes() for p in target.parent.glob("*.json")).decode()
    for word in ("pa%40ss", "pa@ss", "t0ken", "user:"):
        assert word not in reported
        assert word not in stored


def test_no_traceback_shows_a_token(target, policy):
    with FileServer() as gone:
        url = gone.url("patches.h5.gz?token=t0ken").replace("http://", "http://user:secret@")
    with pytest.raises(HistoError, match="refused") as caught:
        download_file(url, target, policy=policy)
    shown = "".join(traceback.format_exception(caught.value))
    assert "t0ken" not in shown
    assert "secret" not in shown


def test_credentials_of_a_netrc_file_are_not_sent(server, target, policy, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("default login user password secret")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script("here", Reply(status=302, headers={"Location": server.url("patches.h5.gz", host="localhost")}))
    download_file(server.url("here"), target, policy=policy)
    assert [request.headers.get("Authorization") for request in server.requests] == [None, None]


def test_the_body_of_a_redirect_is_not_read(server, target, policy):
    to_file = {"Location": server.url("patches.h5.gz")}
    server.script("here", Reply(status=302, headers=to_file, body=b"x" * 1000, length=10**12, stall_after=1000))
    download_file(server.url("here"), target, md5=MD5, policy=RetryPolicy(tries=1, timeout=2))
    assert target.read_bytes() == BODY


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_is_never_switched_off(tmp_path, target, policy, waits):
    with (
        FileServer({"patches.h5.gz": BODY}, tls=self_signed(tmp_path)) as server,
        pytest.raises(HistoError, match="certificate") as caught,
    ):
        download_file(server.url("patches.h5.gz", host="localhost"), target, policy=policy)
    assert "certificates" in caught.value.hint
    assert waits == []
    assert server.requests == []


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_a_redirect_from_https_to_http_is_refused(server, tmp_path, target, policy):
    context = self_signed(tmp_path)
    with FileServer({}, tls=context) as secure:
        secure.script("up", forever=Reply(status=302, headers={"Location": server.url("patches.h5.gz")}, body=b""))
        code = (
            "import sys; from pathlib import Path; from histocli.sources.download import download_file\n"
            "download_file(sys.argv[1], Path(sys.argv[2]))"
        )
        trusting = os.environ | {"SSL_CERT_FILE": str(tmp_path / "certificate.pem")}
        ran = subprocess.run(
            [sys.executable, "-c", code, secure.url("up", host="localhost"), str(target)],
            env=trusting,
            capture_output=True,
            text=True,
        )
    assert "redirects to http:" in ran.stderr
    assert [request.path for request in secure.requests] == ["up"]
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "kind"), [(401, HistoError), (403, HistoError), (404, MissingFileError), (400, HistoError)]
)
def test_a_client_error_is_not_retried(server, target, policy, waits, status, kind):
    server.script("patches.h5.gz", forever=Reply(status=status))
    with pytest.raises(kind, match=f"HTTP {status}"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert waits == []


def test_a_status_without_a_file_is_an_error(server, target, policy):
    server.script("patches.h5.gz", forever=Reply(status=204, body=b""))
    with pytest.raises(HistoError, match="HTTP 204"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/x", "patches.h5.gz", "http://", "http://h:x/", "http://h/a b"]
)
def test_only_http_addresses_are_accepted(target, policy, url):
    with pytest.raises(HistoError, match="not an http"):
        download_file(url, target, policy=policy)
    assert not target.parent.exists()


def test_a_file_larger_than_the_free_space_is_refused_first(server, target, policy):
    server.script("patches.h5.gz", Reply(length=10**18))
    with pytest.raises(HistoError, match=r"patches\.h5\.gz needs 1000000\.0 TB") as caught:
        download_file(server.url("patches.h5.gz"), target, policy=policy)
    assert "free some space" in caught.value.hint
    assert "--out" in caught.value.hint


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no resource limits here")
def test_a_full_disk_is_one_error_and_keeps_the_part(server, target):
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from histocli.sources.download import download_file; from histocli.errors import HistoError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
        "try: download_file(sys.argv[1], Path(sys.argv[2]))\n"
        "except HistoError as error: sys.exit(f'{error} | {error.hint}')\n"
    )
    arguments = [sys.executable, "-c", code, server.url("patches.h5.gz"), str(target)]
    ran = subprocess.run(arguments, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "cannot write" in ran.stderr
    assert "KB are missing" in ran.stderr
    assert "free some space" in ran.stderr
    server.requests.clear()
    download_file(server.url("patches.h5.gz"), target, md5=MD5)
    assert server.ranges("patches.h5.gz") == ["bytes=400000-"]


def test_a_folder_that_cannot_be_written_is_an_error(server, target, policy):
    part_of(target).mkdir(parents=True)
    with pytest.raises(HistoError, match="cannot write"):
        download_file(server.url("patches.h5.gz"), target, policy=policy)


def test_the_remote_size_is_known_without_a_download(server, policy, waits):
    assert find_remote_size(server.url("patches.h5.gz"), policy) == len(BODY)
    assert server.ranges("patches.h5.gz") == ["bytes=0-0"]
    server.script("patches.h5.gz", Reply(ranges=False, stall_after=1000), Reply(length=None, ranges=False))
    assert find_remote_size(server.url("patches.h5.gz"), policy) == len(BODY)  # the body is not read
    assert find_remote_size(server.url("patches.h5.gz"), policy) is None
    server.files["empty.csv"] = b""
    assert find_remote_size(server.url("empty.csv"), policy) == 0
    assert waits == []


def test_the_remote_size_of_a_missing_file_is_an_error(server, policy):
    with pytest.raises(MissingFileError):
        find_remote_size(server.url("absent"), policy)
    server.script("patches.h5.gz", forever=Reply(status=503))
    with pytest.raises(HistoError, match="cannot reach"):
        find_remote_size(server.url("patches.h5.gz"), policy)
    server.script("patches.h5.gz", forever=Reply(headers={"Content-Type": "text/html"}))
    with pytest.raises(HistoError, match="web page"):
        find_remote_size(server.url("patches.h5.gz"), policy)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (27_800, "27.8 KB"), (6_400_000_000, "6.4 GB"), (3e13, "30.0 TB")],
)
def test_bytes_are_formatted_with_units(count, text):
    assert format_bytes(count) == text


def test_redact_url_hides_secrets():
    assert redact_url("https://user:word@host:1/a/b.gz?sig=x#y") == "https://host:1/a/b.gz"
    assert redact_url("https://host?sig=x") == "https://host/"
