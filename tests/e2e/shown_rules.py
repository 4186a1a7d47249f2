"""How commands of the pages are run here: what is made small, what cannot be literal, and what is not run.

Commands run as they are printed but for the rules below: all that fit, in this order. What they name (data/mine,
configs/quickstart.yaml, runs/digits, ...) is in the sandbox, with few images, epochs and weights (shown_sandbox.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TRAINS = r"(?:mixdist\.train|mixdist train)\b"
TAKES_EPOCHS = rf"(?:{TRAINS}|mixdist plan|mixdist reproduce gradient-alignment(?! --run))"
SMALL_VIT = "--model.options '{depth: 1, embed_dim: 24, num_heads: 2}' --model.decoder_depth 1 --model.decoder_heads 2"
SMALL_RESNET = "--model.options '{layers: [1, 1, 1, 1], channels: [4, 4, 8, 8], stem_width: 4}'"


@dataclass(frozen=True)
class Appended:
    """Words put behind each command that the pattern is found in; of a repeated flag the last one counts."""

    pattern: str
    words: str
    why: str


@dataclass(frozen=True)
class Replaced:
    """Text of a command in place of another."""

    pattern: str
    text: str
    why: str


@dataclass(frozen=True)
class NotRun:
    """A command that is not run, and the file that proves it instead."""

    pattern: str
    why: str
    proof: str


APPENDED = [
    Appended(
        rf"{TRAINS}(?!.*--data\.sl)(?!.*--config)", "--data.sl data/mine", "the page leaves the set to the reader"
    ),
    Appended(TAKES_EPOCHS, "--method.ssl_epochs 2 --method.sl_epochs 2", "epochs"),
    Appended(rf"{TAKES_EPOCHS}(?!.*(--config|resnet18))", f"--model.patch_size 4 {SMALL_VIT}", "a small model"),
    Appended(rf"{TAKES_EPOCHS}(?!.*--ranks)", "--train.batch 16", "few images"),
    Appended(
        rf"{TRAINS}(?!.*--run\.dir)", "--run.resume fresh", "several commands of a page leave run.dir at its default"
    ),
    Appended(r"mixdist plan(?!.*--probe-seconds)", "--probe-seconds 0.1", "a probe of a minute"),
    Appended(r"mixdist pack", "--overwrite", "commands of a page write to one folder"),
    Appended(r"pass-timing", "--rounds 1 --steps 1 --threads 1 --train.batch 2", "rounds"),
    Appended(r"pass-timing(?!.*(--config|resnet18))", SMALL_VIT, "a small model"),
    Appended(r"pass-timing.*resnet18", SMALL_RESNET, "a small model"),
    Appended(
        r"reproduce table2(?!.* -- )", f"--seeds 0 --scale 0.02 -- {SMALL_RESNET}", "seeds, epochs, a small model"
    ),
    Appended(r"reproduce table2.* -- ", SMALL_RESNET, "a small model"),
    Appended(r"label-budget", "--share 1 --seeds 0 --arm sl ssl+sl", "18 runs and more"),
    Appended(r"check engines", "--updates 1", "updates"),
    Appended(r"mixdist doctor", "--timeout 120", "two ranks that start on a machine busy with other tests"),
    Appended(r"^tensorboard", "--inspect", "a server never ends; this reads the files as it does"),
    Appended(
        r"^make quickstart", "BIN='{bin}' STAMP=installed SEEDS=0", "the environment that runs the tests is installed"
    ),
]
REPLACED = [
    Replaced(r" \[[^\]]*\](?=( |$))", "", "brackets hold what may be left out"),
    Replaced(r" (\.\.\.|…)(?=( |$))", "", "the reader's own settings"),
    Replaced(r"--nnodes=2 --nproc_per_node=8", "--nnodes=2 --nproc_per_node=1", "cores"),
    Replaced(r"--nproc_per_node=8", "--nproc_per_node=2", "cores"),
    Replaced(r"HOST:29400", "127.0.0.1:{port}", "a node of this machine"),
    Replaced(
        r"^((?:\w+=1 )?torchrun --nnodes=2 .*)$", r"\1 & other=$!; \1 && wait $other", "two nodes, started at once"
    ),
    Replaced(r"^deepspeed --num_nodes 2 --hostfile hosts", "DS_ACCELERATOR=cpu deepspeed --num_gpus 2", "ssh, GPUs"),
    Replaced(r"--config FILE", "--config my.yaml", "a name to fill in"),
    Replaced(r"^mixdist index DIR", "mixdist index tars", "a name to fill in"),
    Replaced(r"^mixdist check SET", "mixdist check data/mine", "a name to fill in"),
    Replaced(r"^mixdist pack FOLDER OUT", "mixdist pack videos set", "names to fill in"),
    Replaced(r"--method\.arm ARM", "--method.arm ssl+sl", "a name to fill in"),
    Replaced(r"MASKING", "input", "a name to fill in"),
    Replaced(r"--seed SEED", "--seed 1", "a name to fill in"),
    Replaced(r"--seeds 0 -- ", "--seeds 0 --scale 0.02 -- ", "epochs"),
    Replaced(r"profile_step --steps 4", "profile_step --steps 1", "minutes"),
    Replaced(r"--cases 5000", "--cases 1", "minutes"),
    Replaced(r"(label-budget.*) -- --train\.eval_every 20", r"\1", "the words put behind are options of the command"),
]
NOT_RUN = [
    NotRun(r"^pip install", "a network", "tests/e2e/test_docker.py"),
    NotRun(r"^make test", "it is this suite", ".ci/run"),
    NotRun(r"^mixdist pack torchvision:\w+ .*--download", "a download", "tests/unit/test_pack_torchvision.py"),
    NotRun(r"^mixdist compare .*--wandb", "a login", "tests/e2e/test_wandb_report.py"),
    NotRun(r"^mixdist sync", "a login", "tests/e2e/test_wandb_server.py"),
    NotRun(r"^mixdist reproduce table4", "two sets, of 110,000 and 60,000 images", "tests/e2e/test_reproduce.py"),
    NotRun(r"^trackio", "a server never ends", "tests/unit/test_trackio.py"),
    NotRun(r"--tracking\.trackio", "it would write into the user's own trackio", "tests/unit/test_trackio.py"),
    NotRun(r"^docker", "a Docker engine", "tests/e2e/test_docker.py"),
    NotRun(r"^sbatch --array", "a cluster", "tests/e2e/test_reproduce_slurm.py"),
    NotRun(r"^srun", "a cluster", "tests/distributed/test_slurm.py"),
    NotRun(r"^mpirun", "an MPI", "tests/unit/test_launchers.py"),
]


def left_out(command: str) -> NotRun | None:
    """Return why a command is not run, if it is not."""
    return next((each for each in NOT_RUN if re.search(each.pattern, command)), None)


def as_run(command: str, **values: object) -> str:
    """Return a command as it is run here; ``values`` fill the names in braces of the rules."""
    for added in APPENDED:
        if re.search(added.pattern, command):
            command = f"{command} {filled(added.words, values)}"
    for replaced in REPLACED:
        command = re.sub(replaced.pattern, filled(replaced.text, values), command)
    return command


def filled(text: str, values: dict[str, object]) -> str:
    """Return a rule's text with its names in braces replaced; other braces are YAML's."""
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", str(value))
    return text
