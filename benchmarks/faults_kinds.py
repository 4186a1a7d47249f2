"""The kinds of fault: what befalls a training at a step, and how it has to end by it.

Each starts the training, strikes when it has come to the step, waits until its processes are gone, and returns what
was not as it should be, or an empty text. What is broken outside of the run is put in order again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

from benchmarks.faults_run import RANKS, Training, processes_below, ranks_of

Fault = Callable[[Training, int, Random], str]
DISK_BYTES = 24 * 2**20
SABOTAGE = Path(__file__).parent / "sabotage"


def kill_rank(training: Training, step: int, random: Random) -> str:
    """SIGKILL to one rank."""
    return _signal_rank(training, step, random, signal.SIGKILL) or _ended(training, set())


def terminate(training: Training, step: int, random: Random) -> str:
    """SIGTERM to torchrun, or to one rank: the run saves the step it is in."""
    launcher = random.random() < 0.5
    if wrong := _signal_rank(training, step, random, signal.SIGTERM, launcher):
        return wrong
    if wrong := _ended(training, set() if launcher else {75}):
        return wrong
    if training.saved() != training.step:
        return f"step {training.saved()} saved, not {training.step}"
    return "" if (training.folder / "stopped.json").exists() else "no stopped.json"


def stop_rank(training: Training, step: int, random: Random) -> str:
    """SIGSTOP to one rank: the others report it and end."""
    rank = random.randrange(RANKS)
    table = training.folder / "hang" / "table.txt"
    table.unlink(missing_ok=True)
    training.start({})
    if not training.wait(lambda: training.step >= step):
        return _early(training)
    assert training.process is not None
    os.kill(ranks_of(training.process.pid)[rank], signal.SIGSTOP)
    if wrong := _ended(training, {76}):
        return wrong
    named = table.exists() and f"last seen: rank {rank} (" in table.read_text()
    return "" if named else f"rank {rank} is not named in the report"


def kill_in_save(training: Training, step: int, random: Random) -> str:
    """SIGKILL to rank 0 while it writes a checkpoint."""
    file = random.randrange(2)
    training.start(_sabotage(f"save-{file}:0:{step}"))
    wrong = _ended(training, set())
    return wrong or ("" if training.step >= step else f"ended at step {training.step} already")


def fill_disk(training: Training, step: int, random: Random) -> str:
    """Fill the file system of the run folder, and make room when the run has ended."""
    training.start({})
    if not training.wait(lambda: training.step >= step):
        return _early(training)
    ballast = training.folder / "ballast"
    assert training.process is not None
    with ballast.open("wb", buffering=0) as file:
        while training.process.poll() is None:  # an older checkpoint that is removed makes room again
            try:
                file.write(bytes(2**12))
            except OSError:
                time.sleep(0.01)
    wrong = _ended(training, set())
    ballast.unlink()
    return wrong or ("" if "make room" in training.output else "does not say to make room")


def tear_newest(training: Training, step: int, random: Random) -> str:
    """All processes gone at once, as by a power cut, and the newest checkpoint cut off: the one before counts."""
    training.start({})
    if not training.wait(lambda: training.step >= step and len(training.checkpoints()) > 1):
        return _early(training)
    assert training.process is not None
    for each in (training.process.pid, *processes_below(training.process.pid)):
        with suppress(OSError):
            os.kill(each, signal.SIGKILL)
    training.end()
    files = sorted(path for path in training.checkpoints()[-1].iterdir() if path.stat().st_size > 100)
    torn = random.choice(files)
    os.truncate(torn, random.randrange(torn.stat().st_size))
    return ""


def lose_wandb(training: Training, step: int, random: Random) -> str:
    """A W&B server that answers nothing of use, and goes away: the run trains on; SIGTERM then ends it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Useless)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    environment = {"WANDB_BASE_URL": address, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
    training.start(environment, **{"tracking.wandb": "online"})
    began = training.wait(lambda: training.step >= step)
    server.shutdown()
    server.server_close()
    if not began:
        return _early(training)
    if not training.wait(lambda: training.step >= step + 5):
        return f"not past step {step + 5} without the server; {_early(training)}"
    assert training.process is not None
    os.kill(ranks_of(training.process.pid)[0], signal.SIGTERM)
    return _ended(training, {75})


def not_finite(training: Training, step: int, random: Random) -> str:
    """The images of one step are NaN on one rank: all ranks leave the update out, and the run ends by it here."""
    training.start(_sabotage(f"nan:{random.randrange(RANKS)}:{step}"))
    if wrong := _ended(training, {70}):
        return wrong
    report = training.folder / "not-finite.json"
    return "" if report.exists() else "no not-finite.json"


KINDS: dict[str, Fault] = {
    "kill -9 of a rank": kill_rank,
    "SIGTERM": terminate,
    "SIGSTOP of a rank": stop_rank,
    "kill -9 in a save": kill_in_save,
    "full disk": fill_disk,
    "torn checkpoint": tear_newest,
    "W&B server gone": lose_wandb,
    "NaN batch": not_finite,
}


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mount a small file system at a folder for the length of the block; False where that is not permitted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "mixdist-faults", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


class _Useless(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _sabotage(what: str) -> dict[str, str]:
    own = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": f"{SABOTAGE}{os.pathsep}{own}" if own else str(SABOTAGE), "MIXDIST_SABOTAGE": what}


def _signal_rank(training: Training, step: int, random: Random, number: int, launcher: bool = False) -> str:
    training.start({})
    if not training.wait(lambda: training.step >= step):
        return _early(training)
    assert training.process is not None
    process = training.process.pid if launcher else ranks_of(training.process.pid)[random.randrange(RANKS)]
    os.kill(process, number)
    return ""


def _early(training: Training) -> str:
    code = training.end()
    return f"ended before the fault, at step {training.step}, exit code {code}"


def _ended(training: Training, codes: set[int]) -> str:
    code = training.end()
    if code is None:
        return "did not end, or left processes"
    if code == 0:
        return "ended as if finished"
    missing = codes - training.exit_codes()
    return f"exit codes {training.exit_codes()} without {missing}" if missing else ""
