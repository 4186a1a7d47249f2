"""launch/: the scripts run for real and lint clean; manifests fit the schemas of Kubernetes and Kubeflow."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import kubeflow_trainer_api.models
import pytest
import yaml
from launching import environment
from pydantic import ValidationError

from mixdist.config.read import read_config

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TRAINJOB = ROOT / "launch/kubernetes/trainjob.yaml"
SCRIPTS = sorted([*ROOT.glob("launch/*.sh"), *ROOT.glob("launch/*.sbatch"), *ROOT.glob("tests/*.sh"), ROOT / ".ci/run"])
MODEL = [
    "--model.patch_size=4",
    "--model.options={depth: 1, embed_dim: 24, num_heads: 2}",
    "--model.decoder_depth=1",
    "--model.decoder_heads=2",
]
SHORT = [*MODEL, "--method.ssl_epochs=1", "--method.sl_epochs=1", "--train.batch=16", "--tracking.wandb=disabled"]


def documents(path: Path) -> list[dict]:
    return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean_to_shellcheck(script):
    done = subprocess.run([BIN / "shellcheck", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_plain_job_fits_the_schemas_of_kubernetes():
    path = ROOT / "launch/kubernetes/job.yaml"
    done = subprocess.run([BIN / "kubernetes-validate", "--strict", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "job/mixdist against version" in done.stdout + done.stderr
    _, job = documents(path)
    check_pod(job["spec"]["template"]["spec"])


def test_a_trainjob_and_its_runtime_fit_the_schemas_of_kubeflow():
    runtime, job = documents(TRAINJOB)
    for document in (runtime, job):
        assert not unknown_fields(document, by_kubeflow(document))
    assert job["spec"]["runtimeRef"] == {"kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    check_pod(pod_of(runtime))


@pytest.mark.parametrize(
    ("kind", "place", "field"),
    [
        (0, ["mlPolicy", "torch"], "numProcPerNode"),
        (0, ["template", "spec", "replicatedJobs", 0, "template", "spec", "template", "spec", "containers", 0], "gpus"),
        (1, ["trainer"], "numProcsPerNode"),
        (1, ["runtimeRef"], "namespace"),
    ],
)
def test_a_field_that_kubeflow_does_not_know_is_found(kind, place, field):
    document = documents(TRAINJOB)[kind]
    inner = document["spec"]
    for step in place:
        inner = inner[step]
    inner[field] = 8
    (found,) = unknown_fields(document, by_kubeflow(document))
    assert found == ".".join(["spec", *map(str, place), field])


def test_a_value_that_kubeflow_does_not_take_is_refused():
    _, job = documents(TRAINJOB)
    job["spec"]["trainer"]["numNodes"] = "two"
    with pytest.raises(ValidationError, match="numNodes"):
        by_kubeflow(job)


def by_kubeflow(document):
    """Return a manifest as Kubeflow's own models read and write it: without what they do not know."""
    assert document["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    return getattr(kubeflow_trainer_api.models, f"TrainerV1alpha1{document['kind']}").from_dict(document).to_dict()


def unknown_fields(given, kept, place=""):
    """Return the places of what is in a manifest and not in what was kept of it; values have to be the same."""
    if isinstance(given, dict):
        missing = [f"{place}{name}" for name in given if name not in kept]
        inner = [(given[name], kept[name], f"{place}{name}.") for name in given if name in kept]
    elif isinstance(given, list):
        missing = []
        inner = [(*pair, f"{place}{row}.") for row, pair in enumerate(zip(given, kept, strict=True))]
    else:
        assert given == kept, place
        return []
    return missing + [found for each in inner for found in unknown_fields(*each)]


def pod_of(runtime):
    return runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_the_pod_of_a_trainjob_fits_the_schemas_of_kubernetes(tmp_path):
    # Kubeflow's models know the fields of a pod; these know also which values they take.
    pod = pod_of(documents(TRAINJOB)[0])
    whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "node"}, "spec": {**pod, "restartPolicy": "Never"}}
    (tmp_path / "pod.yaml").write_text(yaml.safe_dump(whole))
    command = [BIN / "kubernetes-validate", "--strict", tmp_path / "pod.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def check_pod(pod):
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert "/dev/shm" in [mount["mountPath"] for mount in container["volumeMounts"]]
    for word in [*container.get("command", []), *(arg.rpartition("=")[2] for arg in container.get("args", []))]:
        if word.startswith("/opt/mixdist/"):
            assert (ROOT / word.removeprefix("/opt/mixdist/")).is_file(), word


@pytest.mark.parametrize("hardware", sorted(ROOT.glob("configs/hardware/*.yaml")), ids=lambda path: path.name)
@pytest.mark.parametrize("method", sorted(ROOT.glob("configs/paper/*.yaml")), ids=lambda path: path.name)
def test_hardware_configs_go_with_those_of_the_method(hardware, method):
    config = read_config(["--config", str(method), str(hardware)])
    assert config.train.precision == "bf16"
    assert config.model.backbone == yaml.safe_load(method.read_text())["model"]["backbone"]


@pytest.mark.distributed
@pytest.mark.minutes
def test_one_node_and_deepspeeds_launcher_train_and_print_their_command(packed_sets, tmp_path):
    for script, more in (("one-node.sh", {}), ("deepspeed.sh", {"DS_ACCELERATOR": "cpu"})):
        done = train_by(script, packed_sets, tmp_path, script, RANKS="2", **more)
        out, err = done.communicate(timeout=300)
        assert done.returncode == 0, err
        assert f"mixdist.train --{'parallel' if more else 'data'}." in out.splitlines()[0]
        assert (tmp_path / script / "result.json").is_file()


@pytest.mark.distributed
@pytest.mark.minutes
def test_many_nodes_find_each_other(packed_sets, tmp_path):
    here = {"NODES": "2", "MAIN": f"127.0.0.1:{free_port()}", "RANKS": "1"}
    nodes = [train_by("many-nodes.sh", packed_sets, tmp_path, "run", **here) for _ in range(2)]
    for node in nodes:
        _, err = node.communicate(timeout=300)
        assert node.returncode == 0, err
    assert (tmp_path / "run" / "result.json").is_file()


def test_many_nodes_say_what_is_missing(tmp_path):
    done = subprocess.run(
        [ROOT / "launch/many-nodes.sh"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": environment()["PATH"]},
    )
    assert done.returncode != 0
    assert "NODES: set it to the number of nodes" in done.stderr


def train_by(script, packed_sets, folder, name, **more):
    own = {**environment(), **more, "PATH": f"{BIN}:{environment()['PATH']}"}
    command = [ROOT / "launch" / script, f"--data.sl={packed_sets / 'tiny'}", *SHORT, f"--run.dir={name}"]
    return subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
