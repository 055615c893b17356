"""`--processes`: start several processes on this machine with torchrun's own functions."""

import logging
import os
import signal
import sys
from tempfile import TemporaryDirectory
from uuid import uuid4

from histocli import child
from histocli.compute.launcher import LAUNCHER, SECONDS_TO_SAVE
from histocli.compute.rendezvous import RENDEZVOUS_FILE
from histocli.errors import HistoError
from histocli.threads import count_threads


def launch(arguments: list[str], processes: int) -> None:
    """Run `histo` with `arguments` in several processes on this machine, as one job.

    The cores are divided among the processes, unless OMP_NUM_THREADS gives the threads of each.

    Raises:
        HistoError: a process was killed by a signal.
        SystemExit: a process failed, or a signal arrived; the processes have printed their errors.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would repeat our error messages
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, count_threads() // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SECONDS_TO_SAVE))
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # By default PyTorch's stores listen on all network interfaces and unpickle what they receive; use private files.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    os.environ[LAUNCHER] = str(os.getpid())
    with TemporaryDirectory(prefix="histo-") as folder:
        os.environ[RENDEZVOUS_FILE] = f"{folder}/processes"
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{folder}/rendezvous",
            rdzv_configs={"store_type": "file"},
            local_addr="localhost",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            max_restarts=0,
        )
        try:
            elastic_launch(config, sys.executable)(*child.make_arguments("histocli"), *arguments)
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from stopped
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                raise HistoError(
                    f"rank {rank} of {processes} processes was killed by {name}", "--resume continues the run"
                ) from error
            raise SystemExit(failure.exitcode) from error
