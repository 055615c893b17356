"""Fuzz one reader with atheris: it changes files, and goes on with those that reach code that no file reached before.

`fuzz` begins with the files of `fuzz_corpus/TARGET.zip`. Reading a file must end with a value or a `HistoError`, in
little memory and time. A file that does otherwise is written to a folder, and copied to `corpus/`; if there is none,
`fuzz_corpus/TARGET.zip` gets the files that the fuzzing began with and those that reached new code. `test_hostile.py`
tries the files in `corpus/`.

`python -m tests.faults.guided_fuzz` imports the readers, which takes long, and forks a process for each `fuzz`: it
reads one JSON object per line and answers each with an exit code.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import warnings
import zipfile
from hashlib import sha1
from pathlib import Path

TARGETS = {  # and the suffix of their files
    "images": ".tif",
    "tables": ".csv",
    "checkpoints": ".pt",
    "pickles": ".pt",
    "arrays": ".h5",
    "metrics": ".json",
}
HERE = Path(__file__).parent
MIB = 1 << 20
LIMIT = 512 * MIB  # of address space, for all that a file takes
SECONDS_FOR_ONE = 100  # a busy machine is slow
CHANGED = 1000  # files that are tried if no seconds are given, besides the known ones
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MOST_BYTES = 1 << 15  # of a file that is tried


def make_readers(name, folder):
    """Return a function of the bytes of a file: it returns the functions that read it as `name`.

    Only what is imported here is watched by atheris.
    """
    import atheris

    with atheris.instrument_imports(include=["histocli"]):
        from histocli.atomic import read_json
        from histocli.data.manifest import read_manifest
        from histocli.enums import Resize
        from histocli.files.file import File
        from histocli.images.decode import decode_patch
        from histocli.inference.inputs import open_inputs
        from histocli.inference.score_table import read_scores
        from histocli.labels.table_files import read_labels, read_slides
        from histocli.models.checkpoint import load_checkpoint
        from histocli.reports.evaluation import EvaluationReport
        from histocli.sources.hdf5 import read_labels as read_h5_labels
        from histocli.workspace import Workspace

    def read_table(data):
        path, file = write(folder / "x.csv", data), File("x.csv", lambda: data)
        return [
            lambda: read_manifest(path),
            lambda: read_scores(path),
            lambda: read_labels(file),
            lambda: read_slides(file),
        ]

    def read_arrays(path):
        inputs = open_inputs([str(path)], Workspace(folder), Resize.CROP)
        for _, patch in zip(range(5), inputs.patches, strict=False):
            patch.load()

    def read_array_file(data):
        path = write(folder / "x.h5", data)
        return [lambda: read_arrays(path), lambda: read_h5_labels(path, folder)]

    readers = {
        "images": lambda data: [lambda: decode_patch(data, "x.png")],
        "tables": read_table,
        "checkpoints": lambda data: [lambda: load_checkpoint(write(folder / "x.pt", data))],
        "pickles": lambda data: [lambda: load_checkpoint(write_checkpoint(folder / "x.pt", data))],
        "arrays": read_array_file,
        "metrics": lambda data: [
            lambda: EvaluationReport.from_json(read_json(write(folder / "x.json", data)), "").scores
        ],
    }
    return readers[name]


def write(path, data):
    """Write a new file, and return its path."""
    path.unlink(missing_ok=True)  # HDF5 may keep the one before open
    path.write_bytes(data)
    return path


def write_checkpoint(path, pickle):
    """Write a checkpoint with this pickle and the right CRC-32, so that the pickle is read; return its path."""
    with zipfile.ZipFile(path, "w") as archive:
        parts = {"data.pkl": pickle, "version": "3\n", "byteorder": "little"} | {f"data/{i}": bytes(8) for i in "012"}
        for part, content in parts.items():
            archive.writestr(f"archive/{part}", content)
    return path


def make_target(name, folder):
    """Return the function that libFuzzer calls with the bytes of each file: it reads them as `name`."""
    make_reads = make_readers(name, folder)
    import torch

    from histocli.errors import HistoError

    torch.set_num_threads(1)
    is_limited = False

    def read_file(data):
        nonlocal is_limited
        if not is_limited:  # libFuzzer has allocated what it needs
            with open("/proc/self/statm") as file:  # noqa: PTH123
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT, used + LIMIT))
            is_limited = True
        try:
            for read in make_reads(bytes(data)):
                try:
                    read()
                except HistoError as error:
                    assert len(str(error)) < 3000  # noqa: PT017
                    assert "\n" not in str(error)  # noqa: PT017
        except Exception:  # its timer may end the process before libFuzzer writes this file
            (folder / f"{name}-crash-{sha1(data).hexdigest()}").write_bytes(data)
            raise

    return read_file


def run_libfuzzer(target, folder, corpus, options, output):
    """Run libFuzzer in this process, which it ends; `output` is the file for what it prints."""
    import atheris

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    warnings.simplefilter("error")
    atheris.Setup([sys.argv[0], *options, *corpus], make_target(target, Path(folder)))
    atheris.Fuzz()


def serve():
    """Import what all readers need, and fork a process for each request."""
    make_readers("images", Path())
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            run_libfuzzer(**json.loads(line))
            os._exit(70)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n")
        sys.stdout.flush()


class Server:
    """The process that runs `serve`; it ends at the end of a `with` block."""

    def __enter__(self):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen([sys.executable, "-m", __name__], env=os.environ | ONE_THREAD, **pipes)
        return self

    def __exit__(self, *error):
        with self.process:
            self.process.stdin.close()

    def fuzz(self, target, seconds, folder, kept, seed):
        """Fuzz one reader, and return the exit code and what libFuzzer printed; `seed` 0 chooses one.

        If `seconds` is None, the number of files that are tried does not depend on the speed of the machine.
        """
        known, new, output = folder / "known", folder / "new", folder / "output"
        for path in (known, new):
            path.mkdir(parents=True)
        with zipfile.ZipFile(HERE / "fuzz_corpus" / f"{target}.zip") as archive:
            archive.extractall(known)
            runs = len(archive.namelist()) + CHANGED
        options = [f"-timeout={SECONDS_FOR_ONE}", "-rss_limit_mb=3000", f"-artifact_prefix={folder}/{target}-"]
        options += [f"-max_len={MOST_BYTES}", f"-seed={seed}"]
        options.append(f"-runs={runs}" if seconds is None else f"-max_total_time={seconds}")
        request = {"target": target, "folder": folder, "corpus": [new, known], "options": options, "output": output}
        self.process.stdin.write(json.dumps(request, default=str) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        keep(target, folder, kept, has_failed=code != 0)
        return code, output.read_text(errors="replace")


def keep(target, folder, kept, has_failed):
    """Copy the files that caused a fault; if there is none, those that the fuzzing began with or that are new."""
    for name in ("corpus", "fuzz_corpus"):
        (kept / name).mkdir(parents=True, exist_ok=True)
    if has_failed:
        for found in folder.glob(f"{target}-*"):
            content = folder / "x.pt" if target == "pickles" else found  # the archive with the pickle
            shutil.copy(content, kept / "corpus" / f"{found.name[:24]}{TARGETS[target]}")
        return
    with zipfile.ZipFile(kept / "fuzz_corpus" / f"{target}.zip", "w") as archive:
        for path in sorted([*folder.glob("known/*"), *folder.glob("new/*")], key=lambda path: path.name):
            archive.writestr(zipfile.ZipInfo(path.name), path.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    serve()
