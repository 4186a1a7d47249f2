"""What `mixdist doctor` says of machines that are well, and of ones that hang, crash, lie or lack something."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections import namedtuple

import pytest

from mixdist.cli import main
from mixdist.doctor import hardware, libraries, system
from mixdist.doctor.ranks import Ranks, interfaces
from mixdist.errors import UserError

PROPERTIES = namedtuple("Properties", "name major minor")


def ranks(script, timeout_s=20.0, gpus=False):
    with Ranks(2, gpus, (sys.executable, "-S", "-c", script)) as started:
        processes = [process.pid for process in started._processes]
        found = started.finding(timeout_s)
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    return found


@pytest.mark.parametrize(("gpus", "way_out"), [(True, "NCCL_P2P_DISABLE=1"), (False, "GLOO_SOCKET_IFNAME=lo")])
def test_ranks_that_hang_are_ended_and_told_with_the_way_out(gpus, way_out):
    found = ranks(
        "import signal, sys\nprint('started\\njoined', flush=True)\nif sys.argv[2] == '1': signal.pause()",
        timeout_s=4.0,
        gpus=gpus,
    )
    assert found.state == "fail"
    assert found.said == "rank 1 hung before 'all-reduce' (4 s)"
    assert way_out in found.mend


@pytest.mark.parametrize(
    ("dying", "how"),
    [
        ("sys.exit('no device')", "(exit code 1) no device"),
        ("import os; os.kill(os.getpid(), 11)", "(signal 11)"),
    ],
)
def test_a_rank_that_crashes_is_told_though_the_others_wait_for_it(dying, how):
    found = ranks(f"import signal, sys\nprint('started', flush=True)\nif sys.argv[2] == '0': {dying}\nsignal.pause()")
    assert found.state == "fail"
    assert found.said.startswith("rank 0 crashed before 'joined'")
    assert how in found.said
    assert "SOCKET_IFNAME" in found.mend


def test_real_ranks_sum():
    with Ranks(2, gpus=False) as started:
        found = started.finding(timeout_s=120)
    assert (found.state, found.mend) == ("ok", "")
    assert "joined, all-reduce" in found.said


def test_an_interface_that_is_not_here(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib9")
    assert interfaces().state == "fail"
    assert "GLOO_SOCKET_IFNAME names ib9" in interfaces().said
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", socket.if_nameindex()[0][1])
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "^docker0")  # NCCL's way to leave one out
    assert interfaces().state == "ok"


def test_a_host_without_an_address(monkeypatch):
    def unknown(_):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostbyname", unknown)
    assert interfaces().state == "fail"
    assert "/etc/hosts" in interfaces().mend


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one GPU, as far as the doctor asks."""

    def make(kind=(8, 9), built_for=("sm_80", "sm_90"), free=40, driver="550.1"):
        monkeypatch.setattr(hardware.torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(hardware.torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(hardware.torch.cuda, "get_arch_list", lambda: list(built_for))
        monkeypatch.setattr(hardware.torch.cuda, "get_device_properties", lambda _: PROPERTIES("RTX 6000 Ada", *kind))
        monkeypatch.setattr(hardware.torch.cuda, "mem_get_info", lambda _: (free * 2**30, 48 * 2**30))
        monkeypatch.setattr(hardware, "_driver", lambda: driver)
        return hardware.gpus()[-1]

    return make


def test_a_gpu_that_torch_has_code_for(gpu):
    assert gpu().state == "ok"
    assert gpu((9, 0)).state == "ok"
    assert gpu((12, 0), ("sm_80", "compute_120")).state == "ok"


def test_a_gpu_that_torch_has_no_code_for(gpu):
    for kind in ((12, 0), (7, 5)):
        assert gpu(kind).state == "fail"
        assert "sm_80, sm_90" in gpu(kind).mend
    assert gpu((7, 0), ("sm_80", "sm_90a", "compute_120")).state == "fail"


def test_a_gpu_that_another_process_fills(gpu):
    assert gpu(free=3).state == "note"


def test_a_driver_beside_a_torch_that_sees_no_gpu(monkeypatch):
    monkeypatch.setattr(hardware.torch.cuda, "is_available", lambda: False)
    for built_for, mend in (("13.0", "--gpus all"), (None, "CUDA build")):
        monkeypatch.setattr(hardware.torch.version, "cuda", built_for)
        monkeypatch.setattr(hardware, "_driver", lambda: "550.1")
        (found,) = hardware.gpus()
        assert (found.state, mend in found.mend) == ("fail", True)
    monkeypatch.setattr(hardware, "_driver", lambda: None)
    assert hardware.gpus()[0].state == "note"


def test_small_shared_memory_matters_to_gpus_only(monkeypatch):
    usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(system.shutil, "disk_usage", lambda _: usage(2**26, 0, 2**26))
    assert system.shared_memory(0).state == "ok"
    assert system.shared_memory(8).state == "fail"
    assert "--shm-size" in system.shared_memory(8).mend


def test_few_open_files(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 4096))
    assert system.open_files().state == "note"
    assert "ulimit -n" in system.open_files().mend


def test_the_disk_of_a_run_folder_that_is_not_there_yet(tmp_path):
    findings = system.disk(tmp_path / "runs" / "first")
    assert [one.name for one in findings] == ["disk", "clock"]
    assert str(tmp_path) in findings[0].said
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written(monkeypatch, tmp_path):
    def refused(**_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(system.tempfile, "NamedTemporaryFile", refused)
    (found,) = system.disk(tmp_path)
    assert found.state == "fail"
    assert "Read-only file system" in found.said


@pytest.mark.parametrize(
    ("name", "value", "state"), [("_room", 1.0, "note"), ("_clock", 60.0, "note"), ("_clock", 0.1, "ok")]
)
def test_a_slow_disk_and_a_wrong_clock(tmp_path, name, value, state):
    judge = getattr(system, name)
    assert (judge(tmp_path, value) if name == "_room" else judge(value)).state == state


def test_no_ffmpeg(monkeypatch):
    def missing():
        raise UserError("videos need the ffmpeg program")

    monkeypatch.setattr(libraries, "find_ffmpeg", missing)
    assert libraries.ffmpeg().state == "note"
    assert "pip install" in libraries.ffmpeg().mend


def test_an_ffmpeg_that_lacks_a_codec(monkeypatch):
    monkeypatch.setattr(libraries, "find_ffmpeg", lambda: "/opt/ffmpeg")
    monkeypatch.setattr(libraries, "_output", lambda command: "ffmpeg version 7.1 by\n h264 hevc vp9")
    assert libraries.ffmpeg().state == "note"
    assert "no av1" in libraries.ffmpeg().mend


def test_no_deepspeed(monkeypatch):
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda _: None)
    assert libraries.deepspeed(0).state == "note"


def test_wandb_with_and_without_login_and_server(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        assert libraries.wandb().said == "no login, 127.0.0.1 answers: runs are recorded offline"
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password secret\n")
        assert libraries.wandb().state == "ok"
    found = libraries.wandb()
    assert (found.state, "cannot be reached" in found.said, "secret" in found.said) == ("note", True, False)


def test_the_command_says_all_of_it(tmp_path, packed_sets, capfd, monkeypatch):
    monkeypatch.setattr("mixdist.doctor.command.wandb", lambda: libraries.Finding("W&B", "ok", "not asked"))
    report = tmp_path / "doctor.json"
    arguments = ["--run-dir", str(tmp_path), "--json", str(report), "--timeout", "120"]
    assert main(["doctor", *arguments, "--data", str(packed_sets / "tiny")]) == 0
    out = capfd.readouterr().out
    for name in (
        "torch",
        "network",
        "shared memory",
        "open files",
        "disk",
        "clock",
        "ffmpeg",
        "DeepSpeed",
        "data",
        "ranks",
    ):
        assert name in out
    assert main(["doctor", *arguments, "--data", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in report.read_text()
    assert main(["doctor", "--timeout", "0"]) == 2
    capfd.readouterr()
    monkeypatch.setattr("mixdist.doctor.command.Ranks", None)
    assert main(["doctor", "--no-ranks", "--run-dir", str(tmp_path)]) == 0
    assert "processes: joined" not in capfd.readouterr().out


def test_brackets_are_no_markup(monkeypatch, capsys):
    found = [
        libraries.Finding("DeepSpeed", "note", "not installed", "pip install 'mixdist[deepspeed]'"),
        libraries.Finding("data", "fail", "sets[/old] does not exist"),
    ]
    monkeypatch.setattr("mixdist.doctor.command.examine", lambda *_: found)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "pip install 'mixdist[deepspeed]'" in out
    assert "sets[/old] does not exist" in out


def test_a_file_that_cannot_be_written_is_named_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("mixdist.doctor.command.examine", lambda *_: [])
    assert main(["doctor", "--json", str(tmp_path / "nowhere" / "doctor.json")]) == 2
    said = f"mixdist: error: --json {tmp_path}/nowhere/doctor.json cannot be written: No such file or directory\n"
    assert capsys.readouterr().err == said


def test_a_driver_query_that_fails_is_no_driver(monkeypatch):
    def fails(*_, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", 5)

    monkeypatch.setattr(hardware.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(hardware.subprocess, "run", fails)
    assert hardware._driver() is None
