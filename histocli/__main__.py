"""`histo`, which is also `python -m histocli`."""

import sys
from io import TextIOWrapper

from histocli.signals import Stopped, unwinding_on_termination


def main() -> None:
    """Run `histo`."""
    try:
        with unwinding_on_termination():
            from histocli.cli import app  # takes a while, and may be interrupted too

            if isinstance(sys.stdout, TextIOWrapper):
                sys.stdout.reconfigure(encoding="utf-8")  # whatever the locale: results are read by programs
            app(prog_name="histo")
    except Stopped as stopped:  # before any command had begun
        sys.exit(stopped.exit_code)


if __name__ == "__main__":
    main()
