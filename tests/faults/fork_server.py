"""A process that has imported everything `histo` needs, and forks a child process for each command.

The children are real processes that tests can kill and limit; only their start is fast. `python -m
tests.faults.fork_server` reads one JSON object per line and answers each with one; `processes.py` uses it. With
`kill_at`, a child kills itself with SIGKILL just before its k-th operation on a file, so that tests reach every moment.
"""

import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import traceback

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
LIMITS = {"file": resource.RLIMIT_FSIZE, "memory": resource.RLIMIT_AS}


def load_everything():
    import cv2
    import matplotlib.pyplot
    import pandas
    import sklearn.covariance
    import sklearn.metrics
    import torch._dynamo  # noqa: F401 - the optimisers import it at their first step
    import torchvision

    import histocli

    for module in pkgutil.walk_packages(histocli.__path__, "histocli."):
        if module.name != "histocli.__main__":
            importlib.import_module(module.name)
    return cv2, matplotlib, pandas, sklearn, torchvision


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
            descriptor = os.open(request[name], os.O_RDWR | os.O_CREAT if number else os.O_RDONLY, 0o666)
            os.dup2(descriptor, number)
            os.close(descriptor)
        for name, size in request.get("limits", {}).items():
            grown = memory_in_use() + size if name == "memory" else size
            resource.setrlimit(LIMITS[name], (grown, grown))
        for number in request["ignore"]:
            signal.signal(number, signal.SIG_IGN)
        if "kill_at" in request:
            sys.addaudithook(Killer(request["root"], request["kill_at"]))
        code = run(request["args"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(args):
    from histocli.__main__ import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = ["histo", *args]
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    return 0


def memory_in_use():
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[0]) * resource.getpagesize()


class Killer:
    """An audit hook that counts operations on files below `root`, and kills the process at number `at`, from 0.

    With `at` -1 nothing is killed, and the count is written to the file `<root>.operations`.
    """

    def __init__(self, root, at):
        self.root, self.at, self.count = root, at, 0

    def __call__(self, event, args):
        if event not in OPERATIONS or (event == "open" and not self.writes(args)):
            return
        if event != "fcntl.flock" and not str(args[0]).startswith(self.root):
            return
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1
        if self.at < 0:
            descriptor = os.open(f"{self.root}.operations", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(descriptor, str(self.count).encode())
            os.close(descriptor)

    def writes(self, args):
        return str(args[0]) != f"{self.root}.operations" and isinstance(args[2], int) and args[2] & WRITING


def answer(value):
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main():
    load_everything()
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
