"""Whether ranks of this machine can talk: a small all-reduce in processes of their own, which may hang or crash."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mixdist.child import child
from mixdist.doctor.finding import Finding
from mixdist.launchers import PORT

STAGES = ("started", "joined", "all-reduce", "peer copies")  # as the child names what it has behind it
STEP_S = 0.05
WAY_OUT = {
    "started": "torch's import is slow or broken: python -c 'import torch'",
    "joined": "ranks did not find each other: GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME name the interface to use",
    "all-reduce": "start with NCCL_P2P_DISABLE=1 (workstation cards behind an IOMMU hang here), or switch ACS and "
    "IOMMU off in the BIOS; NCCL_DEBUG=INFO says more",
    "peer copies": "a GPU reads other bytes from its peer: NCCL_P2P_DISABLE=1, or switch IOMMU off in the BIOS",
}
WITHOUT_GPU = (
    "is the machine busy? --timeout gives more time; or a firewall between its own ports: GLOO_SOCKET_IFNAME=lo"
)


class Ranks:
    """The processes; they work while other checks do, and are gone when the block is left."""

    def __init__(self, count: int, gpus: bool, command: Sequence[str] = ()) -> None:
        self._gpus = gpus
        self._folder = tempfile.TemporaryDirectory(prefix="mixdist-doctor-")
        self._count, self._began = count, time.monotonic()
        meeting = Path(self._folder.name) / "meeting"
        self._outputs = [Path(self._folder.name) / f"rank-{rank}" for rank in range(count)]
        command = command or child("mixdist.doctor.child")
        self._processes: list[subprocess.Popen[bytes]] = []
        for rank, output in enumerate(self._outputs):
            with output.open("w") as file:
                arguments = [*command, str(meeting), str(rank), str(count)]
                self._processes.append(subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT))

    def __enter__(self) -> Ranks:
        """Return them."""
        return self

    def __exit__(self, *_: object) -> None:
        """End those that are still there."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()

    def finding(self, timeout_s: float) -> Finding:
        """Wait for all of them, ``timeout_s`` after their start at most, or for the first that fails."""
        while any(one.poll() is None for one in self._processes) and not self._over(timeout_s) and not self._failed():
            time.sleep(STEP_S)
        codes = [one.poll() for one in self._processes]
        texts = [output.read_text(errors="replace") for output in self._outputs]
        return self._judge(codes, texts, timeout_s)

    def _over(self, timeout_s: float) -> bool:
        return time.monotonic() - self._began > timeout_s

    def _failed(self) -> bool:
        return any(process.poll() not in (None, 0) for process in self._processes)

    def _judge(self, codes: list[int | None], texts: list[str], timeout_s: float) -> Finding:
        behind = [[stage for stage in STAGES if f"{stage}\n" in text] for text in texts]
        if all(code == 0 for code in codes):
            took = time.monotonic() - self._began
            return Finding("ranks", "ok", f"{self._count} processes: {', '.join(behind[0][1:])} in {took:.1f} s")
        crashed = next((rank for rank, code in enumerate(codes) if code not in (None, 0)), None)
        hanging = [each for each, code in enumerate(codes) if code is None]
        rank = crashed if crashed is not None else min(hanging, key=lambda each: len(behind[each]))
        at = next(stage for stage in STAGES if stage not in behind[rank])
        if crashed is None:
            return Finding("ranks", "fail", f"rank {rank} hung before '{at}' ({timeout_s:g} s)", self._way_out(at))
        last = next((line for line in reversed(texts[rank].splitlines()) if line.strip() and line not in STAGES), "")
        how = f"exit code {codes[rank]}" if (codes[rank] or 0) > 0 else f"signal {-(codes[rank] or 0)}"
        return Finding(
            "ranks", "fail", f"rank {rank} crashed before '{at}' ({how}) {last.strip()[:160]}", self._way_out(at)
        )

    def _way_out(self, at: str) -> str:
        return WAY_OUT[at] if self._gpus or at in ("started", "joined") else WITHOUT_GPU


def interfaces() -> Finding:
    """Return whether the interfaces that ranks will use are there, by name or by this host's address."""
    names = [name for _, name in socket.if_nameindex()]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        asked = [one.lstrip("=") for one in os.environ.get(variable, "").split(",") if one and not one.startswith("^")]
        if missing := [one for one in asked if not any(name.startswith(one) for name in names)]:
            mend = f"unset it, or name one of {', '.join(names)}"
            return Finding("network", "fail", f"{variable} names {missing[0]}, which is not here", mend)
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError:
        mend = f"an entry for it in /etc/hosts, or GLOO_SOCKET_IFNAME={names[0]}"
        return Finding("network", "fail", f"the name of this host, {host}, has no address", mend)
    return Finding("network", "ok", f"{host} is {address}; interfaces {', '.join(names)}; rendezvous port {PORT}")
