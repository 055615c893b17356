"""Run `histo` in processes that tests kill and limit; see `fork_server.py`."""

import atexit
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from tests.cli import REPOSITORY

ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ForkServer:
    """The process that forks all others; there is one, which ends with the tests."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="histo-faults-"))  # for the output of its child processes
        env = os.environ | ALONE | {"PYTHONPATH": str(REPOSITORY), "HOME": str(self.folder)}
        line = [sys.executable, "-m", "tests.faults.fork_server"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(line, cwd=REPOSITORY, env=env, start_new_session=True, **pipes)
        atexit.register(self.close)
        assert self.answer() == "ready"

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self):
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()
        shutil.rmtree(self.folder)


@cache
def fork_server():
    return ForkServer()


class Process:
    """A command that runs on the workspace `root`; `wait` returns its exit code, or minus the signal that killed it.

    With `bare`, the workspace is not named on the command line. With `module`, the `main` of this module runs with the
    arguments, instead of `histo`. `fork_server.py` describes `faults`.
    """

    def __init__(
        self,
        root,
        *args,
        tty=None,
        limits=None,
        ignore=(),
        stdin="/dev/null",
        stdout=None,
        stderr=None,
        cwd=REPOSITORY,
        bare=False,
        module=None,
        faults=None,
        **env,
    ):
        folder = Path(tempfile.mkdtemp(dir=fork_server().folder))
        self.outputs = [folder / "stdout", folder / "stderr"]
        for path in self.outputs:
            path.touch()  # a test may read what is printed before the process has begun
        request = {
            "args": [*([] if bare or module else ["-w", str(root)]), *map(str, args)],
            "env": {**os.environ, **ALONE, **env},
            "cwd": str(cwd),
            "root": str(root),
            "stdin": str(tty or stdin),
            "stdout": str(tty or stdout or self.outputs[0]),
            "stderr": str(tty or stderr or self.outputs[1]),
            "limits": limits or {},
            "ignore": list(map(int, ignore)),
        }
        request |= {"tty": tty} if tty else {}
        request |= {"module": module} if module else {}
        request |= faults or {}
        self.code = None
        self.pid = fork_server().ask(**request)

    def wait(self):
        if self.code is None:
            self.code = fork_server().ask(wait=self.pid)
        return self.code

    @property
    def stdout(self):
        return self.outputs[0].read_text(encoding="utf-8")

    @property
    def stderr(self):
        return self.outputs[1].read_text(encoding="utf-8")

    def signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()

    def until_read(self, descriptor):
        """Wait for output in a pipe to which the process writes, and read a part of it."""
        self.until(lambda: select.select([descriptor], [], [], 0)[0])
        return os.read(descriptor, 1 << 16)

    def until(self, condition, seconds=300):
        """Wait until a condition is true, while the process runs."""
        end = time.monotonic() + seconds
        while not condition():
            assert self.alive(), self.stderr
            assert time.monotonic() < end, "it took too long"
            time.sleep(0.002)

    def alive(self):
        if self.code is None:
            self.code = fork_server().ask(look=self.pid)
        return self.code is None


def has_head(process):
    """Return whether the head of the table of epochs is printed; the first step comes next."""
    return any(line.lstrip().startswith("epoch") for line in process.stderr.splitlines())


def histo(root, *args, code=0, **options):
    """Run a command to its end, and check its exit code."""
    process = Process(root, *args, **options)
    assert process.wait() == code, process.stderr
    return process
