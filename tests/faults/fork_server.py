"""A process that has imported everything `histo` needs, and forks a child process for each command.

The children are real processes that tests can kill and limit; only their start is fast. `python -m
tests.faults.fork_server` reads one JSON object per line and answers each with one; `processes.py` uses it. A request
may name faults: `files`, at an operation on a file, as `files.py` describes; `closed`, the numbers of standard streams;
`homeless`, no home folder; `bug`, an exception in `histo plot`; `exit_delay`, the seconds that a process of a job waits
after another one has failed.
"""

import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import stat
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from tests.faults.files import Layer

LIMITS = {"file": resource.RLIMIT_FSIZE, "memory": resource.RLIMIT_AS}


def load_everything():
    """Import what the commands import in their functions, so that no child process has to."""
    import cv2
    import filelock
    import jinja2
    import matplotlib.pyplot
    import pandas
    import PIL.Image
    import sklearn.covariance
    import sklearn.metrics
    import torch._dynamo  # noqa: F401 - the optimisers import it at their first step
    import torchvision
    import typer

    import histocli
    from histocli.cli import app

    for module in pkgutil.walk_packages(histocli.__path__, "histocli."):
        if module.name != "histocli.__main__":
            importlib.import_module(module.name)
    PIL.Image.init()
    typer.main.get_command(app)
    with suppress(ImportError):
        importlib.import_module("pydantic.type_adapter")  # typer uses it where it is installed
    return cv2, filelock, jinja2, matplotlib, pandas, sklearn, torchvision


def run_in_child(request):
    """Run the requested command in this process, and exit."""
    code = 70
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        if request.get("tty"):
            os.open(request["tty"], os.O_RDWR)  # the first terminal that a session opens is its own
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            descriptor = os.open(request[name], find_flags(request[name]) if number else os.O_RDONLY, 0o666)
            os.dup2(descriptor, number)
            os.close(descriptor)
        for number in request.get("closed", ()):
            os.close(number)
        if request.get("bug"):
            sys.modules["histocli.commands.plot"].plot = divide_by_zero
        if "exit_delay" in request:
            sys.modules["histocli.compute.ddp"]._EXIT_DELAY = request["exit_delay"]
        if request.get("homeless"):
            forget_the_home()
        for name, size in request.get("limits", {}).items():
            grown = memory_in_use() + size if name == "memory" else size
            resource.setrlimit(LIMITS[name], (grown, grown))
        for number in request["ignore"]:
            signal.signal(number, signal.SIG_IGN)
        layer = None
        if "files" in request:
            layer = Layer(request["root"], **request["files"])
            layer.install()
        code = run(request)
        if layer:
            layer.is_off = True
            Path(layer.count).write_text(str(layer.total), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        except OSError:
            code = 120  # as Python does where it cannot flush at exit
        os._exit(code)


def run(request):
    """Run `histo`, or the `main` of another module that the request names, and return the exit code."""
    from histocli.__main__ import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0) if is_open(0) else None  # noqa: SIM115
    sys.stdout = open(1, "w") if is_open(1) else None  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1) if is_open(2) else None  # noqa: SIM115
    sys.argv = ["histo", *request["args"]]
    try:
        if "module" in request:
            importlib.import_module(request["module"]).main(*request["args"])
        else:
            main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return 0


def find_flags(path):
    """Return how to open a file for output: a pipe has no other end if its own reader keeps it open."""
    is_pipe = os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH110, PTH116
    return os.O_WRONLY if is_pipe else os.O_RDWR | os.O_CREAT


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def divide_by_zero(*args, **options):
    raise ZeroDivisionError("made by a test")


def forget_the_home():
    """Be a user without HOME and without an entry in the table of users, as containers have them."""
    import pwd

    def getpwuid(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    pwd.getpwuid = getpwuid
    for name in ("HOME", "USER", "LOGNAME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        os.environ.pop(name, None)


def memory_in_use():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main():
    os.fsync = os.fstat  # as in tests/conftest.py: nobody waits for the disk, and `Layer` still sees each call
    load_everything()
    gc.collect()
    gc.freeze()  # each child process would otherwise look through all that is imported
    answer("ready")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            result = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif "look" in request:
            pid, status = os.waitpid(request["look"], os.WNOHANG)
            result = os.waitstatus_to_exitcode(status) if pid else None
        elif (result := os.fork()) == 0:
            run_in_child(request)
        answer(result)


if __name__ == "__main__":
    main()
