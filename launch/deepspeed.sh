#!/usr/bin/env bash
# Train by DeepSpeed's own launcher, over the nodes of a hostfile where there is one:
#
#   [HOSTFILE=hosts] launch/deepspeed.sh --config CONFIG.yaml --run.dir runs/NAME [--section.key value ...]
#
# Assumes: pip install 'mixdist[deepspeed]' in the active environment; with HOSTFILE (lines "node1 slots=8"), ssh without a
# password to each node, and environment, run folder and sets at the same paths. Without GPUs, RANKS sets the processes.
# torchrun starts DeepSpeed just as well (launch/one-node.sh --parallel.strategy deepspeed); this is for clusters built on it.
set -euo pipefail

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
where=()
if [ -n "${HOSTFILE:-}" ]; then where+=("--hostfile=$HOSTFILE"); fi
if [ -n "${RANKS:-}" ]; then where+=("--num_gpus=$RANKS"); fi
command=(deepspeed "${where[@]}" --module mixdist.train --parallel.strategy deepspeed "$@")
printf '%q ' "${command[@]}"
echo
exec "${command[@]}"
