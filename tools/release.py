"""Build the sdist and the wheel into `dist/`, and check them; `make package`.

They are built twice, and must be the same bytes: their times are that of the last commit, and no time or user of this
machine is in them. twine checks their metadata. The wheel is installed without the repository, beside the dependencies
of this Python, and runs the whole pipeline once.
"""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
NO_DATE = 315_532_800  # 1980, the first year of a zip file
SMOKE = """
--version
demo --n 400 --epochs 1 --device cpu --keep workspace
"""


def main() -> None:
    """Build, compare and check the release files."""
    with tempfile.TemporaryDirectory() as folder:
        first, second = (build(Path(folder, name)) for name in ("one", "two"))
        if (sums := [{path.name: digest(path) for path in files} for files in (first, second)])[0] != sums[1]:
            sys.exit(f"two builds differ: {sums[0]} and {sums[1]}")
        run([sys.executable, "-m", "twine", "check", "--strict", *map(str, first)])
        wheel = next(path for path in first if path.suffix == ".whl")
        smoke(wheel, Path(folder, "smoke"))
        shutil.rmtree(DIST, ignore_errors=True)
        DIST.mkdir()
        for path in first:
            shutil.copy(path, DIST)
            print(f"{digest(path)}  dist/{path.name}")


def build(folder: Path) -> list[Path]:
    """Build both files from a copy of the repository's files, and return them."""
    source, target = folder / "source", folder / "dist"
    epoch = commit_time()
    for name in repository_files():
        copy = source / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy)
        copy.chmod(0o644)
        os.utime(copy, (epoch, epoch))
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch), "PYTHONHASHSEED": "0"}
    env.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(source)]
    run(command, env=env, cwd=folder)
    files = sorted(target.iterdir())
    for path in files:
        if path.suffix == ".gz":
            normalise(path, epoch)
    return files


def repository_files() -> list[str]:
    """Return the files of the repository: those that git knows, and new ones that it does not ignore."""
    listed = output(["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"])
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


def commit_time() -> int:
    """Return the time of the last commit, which the files get."""
    return max(NO_DATE, int(output(["git", "-C", str(ROOT), "log", "-1", "--format=%ct"])))


def normalise(path: Path, epoch: int) -> None:
    """Write a tar.gz again, sorted, with one time, and without the user who built it."""
    with tarfile.open(path) as archive:
        members = [(member, archive.extractfile(member)) for member in sorted(archive, key=lambda info: info.name)]
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as target:
            for member, content in members:
                member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
                member.mode, member.pax_headers = 0o755 if member.isdir() else 0o644, {}
                target.addfile(member, content)
    with path.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as zipped:
        zipped.write(packed.getvalue())


def smoke(wheel: Path, folder: Path) -> None:
    """Install the wheel in an environment of its own, beside this Python's dependencies, and run the pipeline."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", wheel])
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    # Only the packages: the .pth files there, such as that of an editable install of histo, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("HISTO_")}
    env |= {"OMP_NUM_THREADS": "1"}
    found = output([str(python), "-c", "import histocli; print(histocli.__file__)"], env=env, cwd=folder)
    if not Path(found).is_relative_to(site):
        sys.exit(f"the wheel is not what runs, but {found}")
    for line in SMOKE.strip().splitlines():
        run([str(folder / "bin" / "histo"), "-q", *line.split()], env=env, cwd=folder)
    for name in (
        "workspace/runs/histonet-1/model_card.md",
        "workspace/preds.csv",
        "workspace/plots/histonet-1-report.html",
        "share/bash-completion/completions/histo.bash",
    ):
        if not (folder / name).is_file():
            sys.exit(f"the installed wheel has not written {name}")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(command: list[str | Path], env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
    """Run a command, and end with what it printed if it fails."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def output(command: list[str], env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
