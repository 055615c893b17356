"""Several processes of one job: the share of each, and real torchrun jobs of two and three CPU processes with gloo."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import cv2
import numpy as np
import pytest
import torch

from histocli.commands.predict_job import Counts
from histocli.compute import ddp
from histocli.compute.ddp import SINGLE_PROCESS, ProcessGroup, Ranks, gather_torchrun_agents
from histocli.compute.rendezvous import RENDEZVOUS_FILE, agree_on_prefix
from histocli.data.loaders import PatchLoader
from histocli.errors import HistoError
from histocli.inference.parts import Parts
from histocli.training.provenance import find_interrupted_run, write_job
from histocli.workspace import Workspace
from tests.cli import QUICK, REPOSITORY, TRAIN, write_images
from tests.compute import distributed_worker
from tests.faults.processes import Process

linux = pytest.mark.skipif(sys.platform != "linux", reason="the processes of a job are found in /proc")
SIZES = (1, 2, 3, 5)
EPOCH = re.compile(r"\s+(\d+)   \d\.\d{4}")  # the row of an epoch


class Pretended(Ranks):
    """One of several processes. A test creates one object per process, and uses them one after the other."""

    def __init__(self, rank, size, everyone=()):
        self.rank, self.size, self.everyone = rank, size, everyone

    def all_gather(self, value):
        return list(self.everyone)


def loader(ranks, n=23, size=7):
    pixels = np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return PatchLoader(pixels, np.arange(n), np.arange(n) % 2, size, torch.device("cpu"), ranks=ranks)


def numbers(stream):
    """Return the numbers of the patches in each batch; the pixels of a patch are its number."""
    return [batch.images[:, 0, 0, 0].tolist() for batch in stream]


def flat(lists):
    return [*chain.from_iterable(lists)]


@pytest.mark.parametrize("size", SIZES)
def test_the_shares_of_all_processes_make_up_the_batch_of_one_process(size):
    whole = numbers(loader(SINGLE_PROCESS).train_batches(3))
    shares = [numbers(loader(Pretended(rank, size)).train_batches(3)) for rank in range(size)]
    together = [flat(parts) for parts in zip(*shares, strict=True)]
    assert [sorted(batch) for batch in together] == [sorted(batch) for batch in whole]
    assert len(set(flat(together))) == 21  # each once an epoch, but for those that fill no batch
    later = [numbers(loader(Pretended(rank, size)).train_batches(3, first=1)) for rank in range(size)]
    assert later == [share[1:] for share in shares]


@pytest.mark.parametrize("size", SIZES)
def test_the_loss_weight_is_proportional_to_the_number_of_patches(size):
    weights = [loader(Pretended(rank, size)).loss_weight for rank in range(size)]
    counts = [len(numbers(loader(Pretended(rank, size)).train_batches(0))[0]) for rank in range(size)]
    assert weights == pytest.approx([count * size / 7 for count in counts])
    assert np.mean(weights) == pytest.approx(1)


@pytest.mark.parametrize("size", SIZES)
def test_gathered_shares_have_every_patch_in_order(size):
    shares = [numbers(loader(Pretended(rank, size)).eval_batches()) for rank in range(size)]
    assert sorted(flat(flat(shares))) == list(range(23))
    values = [torch.tensor(flat(share), dtype=torch.float32) for share in shares]
    assert loader(Pretended(0, size, values)).gather_shares(values[0]).tolist() == list(range(23))


def test_parts_cover_the_inputs_and_are_only_reused_for_the_same_fingerprint(tmp_path):
    target = tmp_path / "out.csv"
    parts = [Parts(target, "a", 22, 4, Pretended(rank, 2)) for rank in range(2)]
    shares = [list(part.select_share(range(22))) for part in parts]
    assert sorted(flat(shares)) == list(range(22))
    assert [part.count_patches(part.assigned) for part in parts] == [len(share) for share in shares]
    with parts[0].write_part(2, Counts(scored=4)) as path:
        path.write_text("rows")
    again = Parts(target, "a", 22, 4, SINGLE_PROCESS)
    assert again.assigned == [0, 1, 3, 4, 5]
    assert set(again.select_share(range(22))) == set(range(22)) - {8, 9, 10, 11}
    assert Parts(target, "b", 22, 4, SINGLE_PROCESS).assigned == [0, 1, 2, 3, 4, 5]


def test_a_file_of_many_chunks_has_a_bounded_number_of_parts(tmp_path):
    parts = Parts(tmp_path / "out.csv", "a", 1_000_000, 1, SINGLE_PROCESS)
    assert 500 < parts.count <= 1024
    assert parts.count * parts.chunks_per_part >= 1_000_000


def test_two_jobs_with_the_same_target_do_not_mix_their_parts(tmp_path):
    target = tmp_path / "out.csv"
    late = Parts(target, "a" * 16, 2, 1, SINGLE_PROCESS)
    chosen = Parts(target, "b" * 16, 2, 1, SINGLE_PROCESS)
    assert late.part_path(1) != chosen.part_path(1)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == [chosen.folder]


def test_processes_with_different_files_stop_with_an_error():
    with pytest.raises(HistoError, match="have different checkpoints"):
        Pretended(0, 2, ["a", "b"]).check_equal("a", "checkpoints")
    Pretended(0, 2, ["a", "a"]).check_equal("a", "checkpoints")


def test_the_error_of_nccl_is_in_the_message(monkeypatch):
    """If it is NCCL itself that fails, no other process has ended."""
    monkeypatch.setattr(ddp, "is_distributed", lambda: True)
    monkeypatch.setattr(ddp, "_connect", lambda timeout: ProcessGroup(0, 2))
    monkeypatch.setattr(ddp, "_EXIT_DELAY", 0)
    of_nccl = "NCCL error, invalid usage\nncclInvalidUsage: wrong.\nLast error:\nDuplicate GPU detected\n"
    for message, expected in (
        (of_nccl, ", or NCCL failed: Duplicate GPU detected$"),
        ("[gloo/pair.cc] closed", "ended$"),
    ):
        with pytest.raises(HistoError, match=expected), ddp.connect_processes():
            raise torch.distributed.DistBackendError(message)


def test_one_process_trains_the_model_itself():
    model = torch.nn.Linear(1, 1)
    assert ProcessGroup(0, 1).wrap_model(model) is model


@pytest.mark.parametrize(
    ("here", "found"),
    [
        ({"node0/1"}, "theirs"),  # the same torchrun: its processes were started again
        ({"node7/9", "node1/1"}, "theirs"),  # the same job, whose leading process now is on another machine
        ({"node0/2"}, None),  # another job on the same machine
        (set(), None),
    ],
)
def test_a_restarted_job_finds_its_run_by_any_of_its_torchrun_agents(tmp_path, here, found):
    workspace = Workspace(tmp_path)
    for run, torchruns in (("theirs", {"node0/1", "node1/1"}), ("another", {"node0/0"})):
        workspace.run_dir(run).mkdir(parents=True)
        for name in ("config.json", "last.pt"):
            (workspace.run_dir(run) / name).touch()
        write_job(workspace.run_dir(run), torchruns)
    for run, text in (("damaged", "{"), ("other", "[]"), ("empty", "{}")):
        workspace.run_dir(run).mkdir()
        (workspace.run_dir(run) / "config.json").touch()
        (workspace.run_dir(run) / "job.json").write_text(text)
    assert find_interrupted_run(workspace, here) == found


def test_without_an_error_file_there_is_no_torchrun_agent(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "/tmp/x/host/attempt_0/0/error.json")
    assert len(gather_torchrun_agents(SINGLE_PROCESS)) == 1
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", "")
    assert gather_torchrun_agents(SINGLE_PROCESS) == set()


def test_restarted_processes_do_not_connect_to_ended_ones():
    """torchrun keeps its store, with the addresses of the ended processes."""
    from torch.distributed import HashStore

    store, names = HashStore(), []
    with ThreadPoolExecutor(3) as pool:
        for size in (3, 3, 2):
            reported = set(pool.map(agree_on_prefix, [store] * size, reversed(range(size)), [size] * size))
            assert len(reported) == 1
            names += reported
    assert len(set(names)) == 3


@contextmanager
def torchrun(*arguments, options=("--standalone", "--nproc-per-node=2"), prefix=(), env=None):
    """Start a job in the background; stop it at the end of the block if it still runs."""
    logs = TemporaryDirectory()  # without --log-dir, torchrun leaves a folder in the temporary folder
    options = [*options, f"--log-dir={logs.name}"]
    command = [*prefix, sys.executable, "-m", "torch.distributed.run", *options, *map(str, arguments)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | (env or {})
    with logs, subprocess.Popen(command, env=variables, **pipes) as process:
        overdue = Timer(300, process.kill)
        overdue.start()
        try:
            yield process
        finally:
            overdue.cancel()
            if process.poll() is None:
                process.terminate()


@contextmanager
def forked_job(root, *args, processes=2, first_env=None, **options):
    """Fork several processes, which spares their imports; they find each other as those of `--processes` do.

    `first_env` has variables for process 0 only; `options` are those of `Process`.
    """
    with TemporaryDirectory() as folder:
        job = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
        job |= {RENDEZVOUS_FILE: f"{folder}/processes"}
        more = [first_env or {}, *[{}] * (processes - 1)]
        yield [Process(root, *args, RANK=str(rank), **options, **job, **env) for rank, env in enumerate(more)]


def run_without_torchrun(histo, *args, code=0, **options):
    """Run `histo` in several forked processes; `code` is the largest of their exit codes.

    Return stdout and stderr of all, by rank.
    """
    with forked_job(histo.root, *args, **options) as ranks:
        codes = [process.wait() for process in ranks]
    stdout, stderr = ("".join(getattr(process, name) for process in ranks) for name in ("stdout", "stderr"))
    assert max(codes) == code, stderr
    return stdout, stderr


def history(histo, name):
    return [json.loads(line) for line in (histo.root / "runs" / name / "history.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "processes", "tolerance"), [("", 3, 1e-4), ("histonet-pair", 2, 2e-3)])
def test_several_processes_take_the_same_steps_as_one(one_thread, tmp_path, arch, processes, tolerance):
    """Their averaged gradient is that of the whole batch, even if the shares have different sizes.

    A large network differs more, because Muon raises small singular values, which are rounding, to 1.
    """
    distributed_worker.train(tmp_path / "alone", arch)
    together = tmp_path / "together"
    with forked_job(tmp_path, together, arch, processes=processes, module=distributed_worker.__name__) as ranks:
        codes = [process.wait() for process in ranks]
    assert codes == [0] * processes, "".join(process.stderr for process in ranks)
    alone, together = (torch.load(tmp_path / name) for name in ("alone", "together"))
    assert (alone["processes"], together["processes"]) == (1, processes)
    assert together["losses"] == pytest.approx(alone["losses"], rel=tolerance)
    assert (together["probs"] - alone["probs"]).abs().max() < tolerance
    assert (together["weights"] - alone["weights"]).abs().max() < tolerance


@pytest.mark.slow
def test_training_with_two_processes_writes_one_run(histo):
    options = [*TRAIN, "--epochs", 1, "--augment", "none", "--lr", "1e-5"]
    job = Process(histo.root, *options, "--name", "two", "--processes", 2, "--json")
    assert job.wait() == 0, job.stderr
    histo(*options, "--name", "one")
    assert json.loads(job.stdout)["run"] == "two"
    assert "; 2 processes" in job.stderr
    assert job.stderr.count("done: wrote") == 1
    assert len(list(histo.root.glob("runs/*"))) == 3
    first, second = history(histo, "one"), history(histo, "two")
    assert [row["epoch"] for row in second] == [1]
    assert [row["step"] for row in second] == [row["step"] for row in first]
    for name in ("train_loss", "val_loss"):  # as near as batch norm with statistics of a half each allows
        assert [row[name] for row in second] == pytest.approx([row[name] for row in first], rel=0.05)
    files = {path.name for path in (histo.root / "runs" / "two").iterdir()}
    assert files == {path.name for path in (histo.root / "runs" / "one").iterdir()} | {"job.json"}


@pytest.mark.slow
def test_processes_that_compute_differently_do_not_train_together(histo):
    """As with `--device auto`, if the GPU of one process is full."""
    line = [*TRAIN, "--epochs", 1, "--name", "mixed"]
    _, stderr = run_without_torchrun(histo, *line, code=1, first_env={"HISTO_PRECISION": "bf16"})
    assert "error: the processes of this job have different devices or precisions" in stderr
    assert not (histo.root / "runs" / "mixed").exists()


@linux
@pytest.mark.slow
def test_one_process_can_resume_a_stopped_job_of_several(histo):
    line = ["train", "--device", "cpu", "--batch-size", 4, "--epochs", 3, "--name", "stopped"]
    with forked_job(histo.root, *line) as (first, second):
        first.until(lambda: any(map(EPOCH.match, first.stderr.splitlines())))
        second.signal(signal.SIGTERM)  # all stop, whichever of them receives it
        codes = [first.wait(), second.wait()]
    assert codes == [143, 143]
    stderr = first.stderr + second.stderr
    stopped_at = torch.load(histo.root / "runs" / "stopped" / "last.pt", weights_only=True)["training"]["trainer"]
    assert 12 <= stopped_at["step"] < 36
    assert stderr.count(f"error: stopped by a signal after step {stopped_at['step']} of 36; the state is saved") == 1
    resumed = histo("train", "--resume", "--name", "stopped")
    assert f"resumed after step {stopped_at['step']} of 36, with 1 process where there were 2" in resumed.stderr
    assert [row["epoch"] for row in history(histo, "stopped")] == [1, 2, 3]


@linux
@pytest.mark.slow
def test_a_killed_process_is_named_and_a_restart_continues(histo):
    line = histo.line(["train", "--device", "cpu", "--batch-size", 4, "--epochs", 60, "--shots", 8])
    killed, reported = 0, []
    with torchrun("-m", "histocli", *line, options=("--standalone", "--nproc-per-node=2", "--max-restarts=1")) as job:
        for row in job.stderr:
            reported.append(row)
            if EPOCH.match(row) and killed < sum("to train on" in before for before in reported):
                os.kill(members(job)[1], signal.SIGKILL)
                killed += 1
    text = "".join(reported)
    assert (job.returncode, killed) == (1, 2), text
    assert "error: another process of this job has ended" in text
    assert re.search(r"resumed after step \d+ of 240\n", text)
    cause = text[text.index("Root Cause") :]
    assert re.search(r"rank\s+: 1 ", cause)
    assert "SIGKILL" in cause
    epochs = [int(match[1]) for match in map(EPOCH.match, reported) if match]
    assert epochs == list(range(1, len(epochs) + 1))  # none was trained twice, for each is saved
    assert [path.name for path in histo.root.glob("runs/histonet-*")] == ["histonet-1"]


def members(job):
    """Return the processes of a job, by rank."""
    pids = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    found = [dict(item.partition("=")[::2] for item in environment(pid)) | {"pid": int(pid)} for pid in pids]
    return {int(process["RANK"]): process["pid"] for process in found if "RANK" in process}


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")


@pytest.mark.slow
def test_predictions_are_the_same_bytes_for_any_number_of_processes(histo, tmp_path):
    write_images(histo, tmp_path / "images", 22)
    for number in (4, 5, 6, 7, 17):  # a whole chunk of four, and one of another
        (tmp_path / "images" / f"patch-{number:02}.png").write_bytes(b"not an image")
    line = ["predict", tmp_path / "images", "--ckpt", "first", "--batch-size", 4, "--threshold", 0.5, "--out"]
    alone = histo(*line, tmp_path / "1.csv", code=4)
    _, three = run_without_torchrun(histo, *line, tmp_path / "3.csv", processes=3, code=4)
    assert (tmp_path / "3.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    assert len((tmp_path / "1.csv").read_text().splitlines()) == 18
    warnings = [row for row in alone.stderr.splitlines() if row.startswith("warning:")]
    assert [row for row in three.splitlines() if row.startswith("warning:")] == warnings
    assert sorted(path.name for path in tmp_path.glob("[!.]*.csv*")) == ["1.csv", "3.csv"]
    assert list(tmp_path.glob(".*.parts")) == []


@pytest.mark.slow
def test_predictions_that_failed_continue_from_the_finished_parts(histo, tmp_path):
    images = write_images(histo, tmp_path / "images", 36)
    line = ["predict", tmp_path / "images", "--ckpt", "first", "--batch-size", 2, "--errors", "fail", "--out"]
    histo(*line, tmp_path / "1.csv")
    last = images[35].read_bytes()
    images[35].write_bytes(b"not an image")
    _, stderr = run_without_torchrun(histo, *line, tmp_path / "2.csv", code=1, faults={"exit_delay": 0.2})
    assert "error: rank 1: patch-35.png: not an image" in stderr
    assert not (tmp_path / "2.csv").exists()
    images[35].write_bytes(last)
    before = images[2].stat()  # of the first part of the process that failed: what is scored is not read again
    images[2].write_bytes(bytes(before.st_size))
    os.utime(images[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    run_without_torchrun(histo, *line, tmp_path / "2.csv")
    assert (tmp_path / "2.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()


@pytest.mark.slow
def test_several_processes_write_the_same_evaluation_as_one(histo):
    line = ["eval", "--ckpt", "first", "--data", "synthetic", "--batch-size", 32]
    histo(*line)
    path = histo.root / "metrics" / "first-synthetic-all.json"
    alone = [file.read_bytes() for file in (path, path.with_suffix(".csv"))]
    path.unlink()
    _, stderr = run_without_torchrun(histo, *line)
    assert [file.read_bytes() for file in (path, path.with_suffix(".csv"))] == alone
    assert "rank 1" not in stderr


@pytest.mark.slow
def test_several_processes_count_cropped_and_unreadable_images_of_a_folder(histo, tmp_path):
    for i, path in enumerate(write_images(histo, tmp_path / "flat", 12)):
        target = tmp_path / "large" / str(i % 2) / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(os.fspath(target), cv2.resize(cv2.imread(os.fspath(path)), (120, 120)))
    (tmp_path / "large" / "0" / "patch-03.png").write_bytes(b"not an image")  # process 1 reads it
    line = ["eval", "--ckpt", "first", "--data", tmp_path / "large", "--batch-size", 2, "--json"]
    alone = json.loads(histo(*line).stdout)
    assert alone["changed"] == {"cut to the centre": 12}
    assert alone["skipped"] == {"unreadable": 1}
    stdout, stderr = run_without_torchrun(histo, *line)
    assert json.loads(stdout) == alone
    assert stderr.count("warning: 1 patch skipped: unreadable") == 1
    assert stderr.count("patch-03.png") == 1


@pytest.mark.slow
def test_an_error_in_all_processes_is_printed_once_and_leaves_no_files(empty):
    _, stderr = run_without_torchrun(empty, "train", code=1)
    reported = [row for row in stderr.splitlines() if "error: " in row]
    assert len(reported) == 1
    assert reported[0].startswith("error: there is no manifest")
    assert not empty.root.exists()
    (empty.root / "runs" / "taken").mkdir(parents=True)
    _, stderr = run_without_torchrun(empty, "train", "--name", "taken", code=1)
    assert [row for row in stderr.splitlines() if "error: " in row] == ["error: there is a run 'taken' already"]


def test_several_processes_cannot_use_stdin_or_stdout(histo, monkeypatch):
    from histocli.commands.predict import predict
    from histocli.config import PredictConfig
    from histocli.errors import UsageError
    from histocli.workspace import Workspace

    for config in (PredictConfig(["synthetic"]), PredictConfig(["-"], out=histo.root / "preds.csv")):
        with pytest.raises(UsageError, match="cannot read a list from stdin or write to stdout"):
            predict(Workspace(histo.root), config, sys.stdout, ranks=Pretended(0, 2))


@contextmanager
def two_nodes():
    """Connect two network namespaces, which act as two machines; yield the command prefixes to run in each."""
    if not shutil.which("ip") or os.geteuid():
        pytest.skip("network namespaces need root and iproute2")
    names = [f"histo-{os.getpid()}-{i}" for i in range(2)]
    with ExitStack() as stack:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode:
                pytest.skip("network namespaces cannot be made here")
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        ends = [f"hs{os.getpid()}-{i}" for i in range(2)]
        ip("link", "add", ends[0], "netns", names[0], "type", "veth", "peer", "name", ends[1], "netns", names[1])
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "address", "add", f"10.77.0.{i + 1}/24", "dev", end)
            for link in (end, "lo"):
                ip("-n", name, "link", "set", link, "up")
        yield [(["ip", "netns", "exec", name], end) for name, end in zip(names, ends, strict=True)]


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@linux
@pytest.mark.slow
def test_two_machines_train_one_run(histo):
    line = histo.line([*QUICK, "--name", "nodes"])
    with two_nodes() as nodes, ExitStack() as stack:
        jobs = []
        for i, (prefix, interface) in enumerate(nodes):
            meeting = ("--rdzv-backend=c10d", "--rdzv-endpoint=10.77.0.1:29400", "--rdzv-id=nodes")
            own = (f"--local-addr=10.77.0.{i + 1}", f"--rdzv-conf=is_host={int(i == 0)}")
            options = ("--nnodes=2", "--nproc-per-node=1", *meeting, *own)
            env = {"GLOO_SOCKET_IFNAME": interface}
            job = torchrun("-m", "histocli", *line, options=options, prefix=prefix, env=env)
            jobs.append(stack.enter_context(job))
        reported = [job.communicate(timeout=300)[1] for job in jobs]
        assert [job.returncode for job in jobs] == [0, 0], reported
    assert "; 2 processes" in "".join(reported)
    assert len(history(histo, "nodes")) == 1
    assert len(json.loads((histo.root / "runs" / "nodes" / "job.json").read_text())["agents"]) == 2
