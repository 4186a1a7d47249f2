#!/usr/bin/env bash
# Train on all GPUs of this machine:
#
#   launch/one-node.sh --config CONFIG.yaml --run.dir runs/NAME [--section.key value ...]
#
# Assumes: mixdist's environment is active. RANKS sets the number of processes (default: GPUs, or 1 without any).
# Started again after a stop, the same command goes on from the newest checkpoint.
set -euo pipefail

ranks=${RANKS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
command=(torchrun --standalone "--nproc_per_node=$ranks" --shutdown_timeout=100 -m mixdist.train "$@")
printf '%q ' "${command[@]}"
echo
exec "${command[@]}"
