"""A training that talks to a W&B server on loopback: whatever that does, the weights are the same and the exit is 0."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import launching
import pytest
import torch
from launching import QUIET, TINY_VIT, Done
from safetensors.torch import load_file
from wandb_server import KEY, Fault, WandbServer, wandb_server

FAILING: tuple[Fault, ...] = ("dead", "500", "mute", "slow", "nonsense", "gone after start", "mute after start")
CANARY = "canary-5b1c"
SETTINGS: dict[str, Any] = {
    **TINY_VIT,
    **QUIET,
    "method.ssl_epochs": 2,
    "method.sl_epochs": 2,
    "train.batch": 32,
    "run.dir": f"{CANARY}/seed0",
    "tracking.group": "trees",
    "tracking.tags": "[study]",
    "tracking.timeout_s": 4,
}


def train(folder: Path, data: Path, server: WandbServer | None, **more: Any) -> Done:
    """Train in ``folder`` with that server, or with W&B disabled; it has to end in time."""
    settings = {**SETTINGS, "data.sl": data, "tracking.wandb": "online" if server else "disabled", **more}
    return command(launching.train(1, settings), folder, server)


def command(arguments: list[str], folder: Path, server: WandbServer | None) -> Done:
    """Run a command, or `mixdist` with these arguments, with an empty home."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    environment = launching.environment() | {"HOME": str(home), "SECRET": CANARY}
    done = subprocess.run(
        arguments if Path(arguments[0]).is_absolute() else launching.mixdist(*arguments),
        cwd=folder,
        env=environment | (server.environment if server else {}),
        capture_output=True,
        text=True,
        timeout=launching.TIMEOUT_S,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(launching.checkpoints(folder / CANARY / "seed0")[-1] / "model.safetensors")


# The training as typed, but for its few seconds of patience with W&B after a signal, which a busy machine may exceed.
PATIENT = """
import sys
from mixdist.tracking import background
from mixdist.train import main
background.STOP_TIMEOUT_S = 60
sys.exit(main())
"""


@dataclass(frozen=True)
class Undisturbed:
    """A set, and what a training on it without W&B comes to."""

    data: Path
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def undisturbed(packed_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = train(folder, packed_sets / "tiny", None)
    assert done.code == 0, done.err
    return Undisturbed(packed_sets / "tiny", weights(folder))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.minutes
@pytest.mark.parametrize("fault", FAILING)
def test_a_server_that_fails_changes_no_weight_and_no_exit_code(
    undisturbed: Undisturbed, tmp_path: Path, fault: Fault
) -> None:
    with wandb_server(fault) as server:
        done = train(tmp_path, undisturbed.data, server)
    assert done.code == 0, done.err
    assert same(weights(tmp_path), undisturbed.weights)
    told = [line for line in done.out.splitlines() if "W&B" in line]
    if fault == "slow":
        assert told
    elif "start" in fault or fault == "nonsense":
        assert f"mixdist sync {CANARY}/seed0" in told[-1]
    else:
        assert len(told) == 1
        assert told[0].startswith("W&B: offline (")
        assert f"mixdist sync {CANARY}/seed0" in told[0]
    assert done.own_tracebacks == []
    if fault != "slow":  # the server is well again
        with wandb_server() as well:
            uploaded = command(["sync", f"{CANARY}/seed0"], tmp_path, well)
            again = command(["sync", CANARY], tmp_path, well)
        assert uploaded.code == 0, uploaded.err
        (rows,) = well.history.values()
        records = launching.records(tmp_path / CANARY / "seed0")
        assert [row["_step"] for row in rows] == [record["step"] for record in records]
        assert (again.code, again.out) == (0, "nothing to upload: W&B has all that these runs kept for it\n")


@pytest.mark.slow
def test_a_stopped_run_is_one_run_there_and_nothing_private_is_sent(undisturbed: Undisturbed, tmp_path: Path) -> None:
    with wandb_server() as server:
        first = train(tmp_path, undisturbed.data, server, **{"run.save_every_steps": 1})
        assert first.code == 0, first.err
        (run,) = server.history
        rows = server.history[run]
        records = launching.records(tmp_path / CANARY / "seed0")
        assert [row["_step"] for row in rows] == [record["step"] for record in records]
        assert [row["samples"] for row in rows] == [record["samples"] for record in records]
        assert [row["train/loss"] for row in rows] == pytest.approx([record["loss"] for record in records])
        result = launching.result(tmp_path / CANARY / "seed0")
        summary = server.summary[run]
        assert summary["accuracy"] == pytest.approx(result["accuracy"])
        assert summary["latency_s/mix"] == pytest.approx(result["phases"]["mix"]["latency_s"])
        assert summary.get("git") == result["git"]  # None outside a checkout
        assert summary["per_class"]["nrows"] == 3
        assert summary["confusion_table"]["nrows"] == 9
        assert not any("image" in name for name in server.files)  # which were not asked for
        opened = server.upserts[0]
        assert (opened["groupName"], opened["jobType"], opened["displayName"]) == ("trees", "mixtraining", "seed0")
        assert opened["tags"] == ["mixtraining", "vit_tiny_patch16_224", "tiny", "study"]
        config = json.loads(opened["config"])
        assert config["method"]["value"]["mix_ratio"] == 0.5
        assert config["run_facts"]["value"]["git"] == result["git"]
        sent = b"\n".join(server.everything)
        for secret in (CANARY, KEY, str(tmp_path), str(undisturbed.data.parent)):
            assert secret.encode() not in sent, secret

        # The last checkpoint is lost, and so is the folder's own note of the id.
        run_folder = tmp_path / CANARY / "seed0"
        (run_folder / "result.json").unlink()
        for path in launching.checkpoints(run_folder)[-1].iterdir():
            path.write_bytes(b"torn")
        (run_folder / "wandb-id.txt").unlink()
        second = train(tmp_path, undisturbed.data, server)
        nothing = command(["sync", CANARY], tmp_path, server)
    assert second.code == 0, second.err
    assert set(server.history) == {run}
    assert nothing.out.startswith("nothing to upload")
    assert same(weights(tmp_path), undisturbed.weights)


@pytest.mark.slow
def test_a_run_stopped_by_a_signal_is_preempted_there_until_it_goes_on(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    long = {"method.ssl_epochs": 100, "method.sl_epochs": 100, "run.save_every_epochs": 50, "train.eval_every": 100}
    settings = {**SETTINGS, **long, "data.sl": undisturbed.data, "tracking.wandb": "online", "tracking.timeout_s": 60}
    with wandb_server() as server:
        (tmp_path / "home").mkdir()
        environment = launching.environment() | server.environment | {"HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", PATIENT, *launching.flags(settings)]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        launching.wait_for(lambda: server.upserts, process)  # its history is sent later, maybe at the end
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=launching.TIMEOUT_S)
        assert process.returncode == 75, out
        assert server.ends == [(True, 75)]
        second = train(tmp_path, undisturbed.data, server, **long)
    assert second.code == 0, second.err
    assert server.ends == [(True, 75), (False, 0)]
    ((_, rows),) = server.history.items()  # one run, each step once
    assert [row["_step"] for row in rows] == [
        record["step"] for record in launching.records(tmp_path / CANARY / "seed0")
    ]


@pytest.mark.slow
def test_a_fresh_run_in_the_same_folder_is_another_run_there_and_pictures_go_where_asked_for(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    with wandb_server() as server:
        for resume in ("auto", "fresh"):
            asked = {"tracking.images": "yes", "tracking.reconstruct_every": 1, "run.resume": resume}
            done = train(tmp_path, undisturbed.data, server, **asked)
            assert done.code == 0, done.err
    assert len(server.history) == 2
    assert not any(CANARY.encode() in body for body in server.everything)
    for rows in server.history.values():
        captions = [row["reconstructions"]["caption"] for row in rows if "reconstructions" in row]
        assert [caption.split(":")[0] for caption in captions] == ["epoch 1", "epoch 2", "at the end"]
    assert sum(name.startswith("media/images/") for name in server.files) >= 2
