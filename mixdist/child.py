"""The command that starts a module as a process of its own, which imports from where this one does and nowhere else."""

from __future__ import annotations

import sys

# Python puts the current folder, which may be a downloaded set, in front of what `-c` and `-m` import from. sys is
# built in, so that nothing has been imported by the time the folder is gone. (`-P` is there from Python 3.11 on only.)
_BOOT = "import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module(sys.argv.pop(1), None, '__main__', True)"


def child(module: str, *arguments: str) -> list[str]:
    """Return the command that runs ``module`` as `python -m` does, with the ``sys.path`` of this process."""
    # In one argument, "-c" with its code, as torchrun calls a rank by its first argument without a hyphen.
    return [sys.executable, "-c" + _BOOT.format(path=[str(entry) for entry in sys.path]), module, *arguments]
