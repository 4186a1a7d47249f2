"""`mixdist.tracking.trackio_child`, started by trackio_sink.py: hands records from its input to trackio.

The first line is what trackio.init is told, each other one [step, values]. A process of its own, as trackio prints,
asks the Hugging Face Hub who the user is, and brings a web server's packages: none of it belongs into a training.
"""

from __future__ import annotations

import json
import signal
import sys


def main() -> None:
    """Take records until the input ends; a step that trackio has already, from before a resume, is not taken twice."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(one, signal.SIG_IGN)  # sent to the whole job: the input ends where the training does
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    described = json.loads(sys.stdin.readline())
    known = SQLiteStorage.get_max_step_for_run(described["project"], described["name"])
    run = trackio.init(**described, resume="allow", embed=False)
    for line in sys.stdin:
        step, values = json.loads(line)
        if known is None or step > known:
            run.log(values, step=step)
    run.finish()


if __name__ == "__main__":
    main()
