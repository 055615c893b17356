"""The `histo` executable, also started by `python -m histocli`."""

import os
import sys

from histocli.compute.launcher import watch_launcher
from histocli.signals import Stopped, raise_on_termination
from histocli.threads import CoreMeter, let_waiting_threads_sleep


def main() -> None:
    """Run `histo`."""
    os.environ["MPLBACKEND"] = "agg"  # plots go to files; matplotlib refuses a name that it does not know
    meter = CoreMeter()
    watch_launcher()
    try:
        with raise_on_termination():
            from histocli.cli import app  # inside the block, because importing takes a while
            from histocli.stdio import prepare_streams

            let_waiting_threads_sleep(meter)
            prepare_streams()
            app(prog_name="histo")
    except Stopped as stopped:  # before any command started
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
