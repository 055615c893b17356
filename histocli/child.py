"""Start Python processes that import the same modules as this process."""

import sys


def make_arguments(module: str) -> list[str]:
    """Return arguments for `sys.executable` that run a module; `-m` would first look in the working directory."""
    run = f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    return ["-c", f"import sys; sys.path[:] = {sys.path!r}; import runpy; {run}"]
