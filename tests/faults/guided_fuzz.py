"""Fuzz one reader with atheris: it changes files, and goes on with those that reach code that no file reached before.

`python -m tests.faults.guided_fuzz TARGET SECONDS FOLDER` begins with the files of `fuzz_corpus/TARGET.zip`. Reading a
file must end with a value or a `HistoError`, in little memory and time. A file that does otherwise is written to
FOLDER, and the exit code is not 0. With `--keep KEPT`, it is also copied to `KEPT/corpus/`; if there is none,
`KEPT/fuzz_corpus/TARGET.zip` gets the files that the fuzzing began with and those that reached new code.
`test_hostile.py` tries the files in `corpus/`.
"""

import argparse
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
SECONDS_FOR_ONE = 10
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


def run_libfuzzer(name, corpus, folder, options):
    """Run libFuzzer in this process, which it ends."""
    import atheris

    warnings.simplefilter("error")
    target = make_target(name, folder)
    atheris.Setup([sys.argv[0], *options, *map(str, corpus)], target)
    atheris.Fuzz()


def call(name, corpus, folder, *options):
    """Run libFuzzer in another process; return its exit code and what it printed."""
    line = [sys.executable, "-m", "tests.faults.guided_fuzz", name, "0", str(folder)]
    line += ["--libfuzzer", json.dumps([list(map(str, corpus)), options])]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode(errors="replace")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("seconds", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="0 chooses one")
    parser.add_argument("--libfuzzer")
    args = parser.parse_args()
    if args.libfuzzer:
        corpus, options = json.loads(args.libfuzzer)
        run_libfuzzer(args.target, corpus, args.folder, options)
        return
    known, new = args.folder / "known", args.folder / "new"
    for folder in (known, new):
        folder.mkdir(parents=True)
    with zipfile.ZipFile(HERE / "fuzz_corpus" / f"{args.target}.zip") as archive:
        archive.extractall(known)
    options = [f"-timeout={SECONDS_FOR_ONE}", "-rss_limit_mb=3000", f"-artifact_prefix={args.folder}/{args.target}-"]
    options += [f"-max_len={MOST_BYTES}", f"-seed={args.seed}", f"-max_total_time={args.seconds}"]
    code, text = call(args.target, [new, known], args.folder, *options)
    sys.stdout.write("\n".join(text.splitlines()[-25:]) + "\n")
    if args.keep:
        keep(args.target, args.folder, args.keep, has_failed=code != 0)
    sys.exit(code)


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
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
