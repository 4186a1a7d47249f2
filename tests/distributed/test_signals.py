"""A signal saves at the next step border, all ranks leave together, and the next start ends as if nothing had been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbing import SETTINGS
from launching import TIMEOUT_S, Done, checkpoints, environment, flags, records, result, run, start, train, wait_for

from benchmarks.faults_run import differing, ranks_of

pytestmark = pytest.mark.minutes

SLURM = Path(__file__).parents[2] / "launch" / "slurm.sbatch"

# What srun and scontrol do as far as the job script is concerned.
SRUN = """\
#!/usr/bin/env bash
"$@" &
task=$!
trap 'kill -USR1 $task' USR1
while kill -0 $task 2>/dev/null; do wait $task; code=$?; done
exit $code
"""
SCONTROL = """\
#!/usr/bin/env bash
case $1 in
  show) echo localhost ;;
  requeue) echo "$2" >>requeued ;;
esac
"""


def disturb(command: list[str], folder: Path, step: int, send: Callable[[int], None], **variables: str) -> Done:
    """Start a command, send what is to be sent once the run has passed ``step``, and return how it ended."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment() | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: any(record["step"] >= step for record in records(folder / "run")), process)
    send(process.pid)
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Done(process.returncode, out, err)


def stopped(folder: Path) -> int:
    """Return the step of stopped.json, which is the step of the newest checkpoint and of the last record."""
    step: int = json.loads((folder / "stopped.json").read_text())["step"]
    assert checkpoints(folder)[-1].name == f"step-{step:09d}"
    assert step - records(folder)[-1]["step"] in (0, 1)  # 1 where it ends an epoch: it is evaluated at the next start
    return step


@pytest.mark.distributed
@pytest.mark.slow
def test_a_run_stopped_by_slurm_by_torchrun_and_by_a_rank_ends_as_if_nothing_had_been(
    packed_sets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    settings = {**SETTINGS, "data.sl": packed_sets / "digits"}
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    job = ["bash", str(SLURM), "run", *flags(settings)]
    slurm = {
        "PATH": f"{tmp_path / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "2",
    }

    warned = disturb(job, tmp_path, 10, lambda script: os.kill(script, signal.SIGUSR1), **slurm)
    first = stopped(tmp_path / "run")
    assert (tmp_path / "requeued").read_text().split() == [slurm["SLURM_JOB_ID"]]
    assert f"at step {first} of 180, which is saved" in warned.err
    assert warned.own_tracebacks == []

    command = train(2, settings)
    ended = disturb(command, tmp_path, first + 20, lambda launcher: os.kill(launcher, signal.SIGTERM))
    second = stopped(tmp_path / "run")
    assert second > first
    assert ended.err.count("mixdist: stopped by SIGTERM on rank") == 1
    assert ended.own_tracebacks == []

    interrupted = disturb(
        command, tmp_path, second + 20, lambda launcher: os.kill(ranks_of(launcher)[1], signal.SIGINT)
    )
    assert stopped(tmp_path / "run") > second
    assert "mixdist: stopped by SIGINT on rank 1 at step" in interrupted.err
    assert set(interrupted.exit_codes) == {75}

    finished = disturb(job, tmp_path, 180, lambda script: None, **slurm)
    assert finished.code == 0, finished.err
    assert not (tmp_path / "run" / "stopped.json").exists()
    assert len((tmp_path / "requeued").read_text().split()) == 1
    assert [record["step"] for record in records(tmp_path / "run")] == list(range(1, 181))
    assert differing(tmp_path / "run", undisturbed) == []


# While there is a file "slow", an evaluation takes seconds.
SLOW = """
import pathlib, sys
if "mixdist.train" in sys.orig_argv:
    import time
    from mixdist.data.stream import TestStream
    own = TestStream.__iter__
    def slow(stream):
        for batch in own(stream):
            if pathlib.Path("slow").exists():
                time.sleep(0.2)
            yield batch
    TestStream.__iter__ = slow
"""


@pytest.mark.distributed
@pytest.mark.slow
def test_a_run_killed_and_stopped_in_evaluations_ends_as_if_nothing_had_been(
    packed_sets: Path, undisturbed: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLOW)
    variables = environment() | {"PYTHONPATH": f"{tmp_path / 'site'}:{os.environ.get('PYTHONPATH', '')}"}
    settings = {**SETTINGS, "data.sl": packed_sets / "digits", "train.eval_batch": 8}  # 23 batches on each rank
    folder = tmp_path / "run"
    (tmp_path / "slow").touch()
    for border, number in ((90, signal.SIGKILL), (135, signal.SIGTERM), (180, signal.SIGTERM)):
        process = subprocess.Popen(train(2, settings), cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True)
        wait_for((folder / "checkpoints" / f"step-{border:09d}").exists, process)
        os.kill(process.pid if number == signal.SIGTERM else ranks_of(process.pid)[0], number)
        _, err = process.communicate(timeout=TIMEOUT_S)
        assert records(folder)[-1]["step"] == border - 1
        assert number == signal.SIGKILL or f"at step {border} of 180, which is saved" in err
    (tmp_path / "slow").unlink()
    done = run(train(2, settings), tmp_path)
    assert done.code == 0, done.err
    for field in ("step", "accuracy"):
        assert [each[field] for each in records(folder)] == [each[field] for each in records(undisturbed)]
    assert result(folder)["accuracy"] == result(undisturbed)["accuracy"]
    assert differing(folder, undisturbed) == []


@pytest.mark.distributed
@pytest.mark.slow
def test_one_signalled_rank_of_three_is_enough(packed_sets: Path, tmp_path: Path) -> None:
    command = train(3, {**SETTINGS, "data.sl": packed_sets / "digits"})
    done = disturb(command, tmp_path, 10, lambda launcher: os.kill(ranks_of(launcher)[2], signal.SIGUSR1))
    step = stopped(tmp_path / "run")
    assert len(done.exit_codes) >= 3
    assert set(done.exit_codes) == {75}
    assert done.err.count(f"mixdist: stopped by SIGUSR1 on rank 2 at step {step} of 180, which is saved") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_during_set_up_ends_the_run_at_once_and_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    process = start(train(1, {"run.dir": "run"}, "--config", "config.yaml"), tmp_path)
    with (tmp_path / "config.yaml").open("w"):  # opens as soon as the run reads its config, and then lets it wait
        process.send_signal(number)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == code
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


BODY = """
    import os, signal, sys
    from mixdist.engine.signals import Signals
    def send(name): os.kill(os.getpid(), getattr(signal, name))
    def until(reached):
        while not reached():
            pass
    with Signals() as signals:
"""


def in_a_process(body: str, afterwards: str = "") -> Done:
    """Run the lines of ``body`` within ``with Signals() as signals`` in a process of their own."""
    script = textwrap.dedent(BODY) + textwrap.indent(textwrap.dedent(body), "    ") + afterwards
    return run([sys.executable, "-c", script], Path.cwd())


def test_a_deferred_signal_only_sets_the_flag_and_the_first_one_stays() -> None:
    done = in_a_process("""
        with signals.deferred():
            assert signals.asked == 0
            send("SIGUSR1")
            until(lambda: signals.asked)
            send("SIGTERM")
            send("SIGTERM")
            print(signals.asked == signal.SIGUSR1)
    """)
    assert (done.code, done.out) == (0, "True\n"), done.err


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_a_second_ctrl_c_ends_the_process_though_signals_are_deferred(second: str) -> None:
    done = in_a_process(f"""
        try:
            with signals.deferred():
                send("SIGINT")
                until(lambda: signals.asked)
                send("{second}")
                until(lambda: False)
        except KeyboardInterrupt:
            print("cleaned up")
            sys.exit(130)
    """)
    assert (done.code, done.out) == (130, "cleaned up\n"), done.err


def test_a_thread_that_runs_no_handler_is_left_behind() -> None:
    done = in_a_process("""
        import ctypes
        lock = ctypes.create_string_buffer(64)
        libc = ctypes.CDLL(None)
        libc.pthread_mutex_lock(lock)
        import threading
        threading.Timer(0.2, lambda: send("SIGTERM")).start()
        libc.pthread_mutex_lock(lock)  # for ever, and no signal ends it, as in a collective
    """)
    assert done.code == 143, done.err


def test_the_handlers_of_before_are_back_afterwards() -> None:
    done = in_a_process(
        "inside = signal.getsignal(signal.SIGTERM)\n",
        "print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL != inside, signal.set_wakeup_fd(-1))",
    )
    assert (done.code, done.out) == (0, "True -1\n"), done.err
