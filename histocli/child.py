"""Python in a process of its own, which imports what this one would."""

import sys


def arguments(module: str) -> list[str]:
    """What to give `sys.executable` to run a module: `-m` would import first what lies in the working directory."""
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return ["-c", f"import sys; sys.path[:] = {sys.path!r}; import runpy; {run}"]
