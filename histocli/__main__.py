"""The `histo` executable, also started by `python -m histocli`."""

import sys
from io import TextIOWrapper

from histocli.signals import Stopped, raise_on_termination
from histocli.threads import OtherProcesses, let_waiting_threads_sleep


def main() -> None:
    """Run `histo`."""
    others = OtherProcesses()
    try:
        with raise_on_termination():
            from histocli.cli import app  # inside the block, because importing takes a while

            let_waiting_threads_sleep(others)
            if isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")  # in any locale, because programs read the results
            app(prog_name="histo")
    except Stopped as stopped:  # before any command started
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
