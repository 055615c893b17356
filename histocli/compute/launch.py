"""torchrun, started by `histo` itself: several processes on this machine."""

import logging
import os
import signal
import sys
from tempfile import TemporaryDirectory
from uuid import uuid4

from histocli import child
from histocli.compute.device import thread_count
from histocli.compute.meeting import MEETING
from histocli.errors import HistoError

_SHUTDOWN = "300"  # seconds that torch gives processes to save and stop, before it kills them


def launch(arguments: list[str], processes: int) -> None:
    """Run `histo` with `arguments` in so many processes on this machine; each is told its number and finds the others.

    The cores are shared out among them, unless OMP_NUM_THREADS says how many each has.

    Raises:
        HistoError: a process was killed.
        SystemExit: one failed, or a signal came; what it said stands above.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would say again what we say
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, thread_count() // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _SHUTDOWN)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # torch's stores listen on all interfaces, and what they hold is unpickled: here they are files of this user's
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    with TemporaryDirectory(prefix="histo-") as folder:
        os.environ[MEETING] = f"{folder}/meeting"
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
            elastic_launch(config, sys.executable)(*child.arguments("histocli"), *arguments)
        except SignalException as stopped:
            raise SystemExit(128 + stopped.sigval) from stopped
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            if failure.exitcode < 0:
                name = signal.Signals(-failure.exitcode).name
                raise HistoError(f"process {rank} of {processes} was ended by {name}", "--resume goes on") from error
            raise SystemExit(failure.exitcode) from error
