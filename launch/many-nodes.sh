#!/usr/bin/env bash
# Train on several nodes without a scheduler; the same line on each of them, in any order:
#
#   NODES=2 MAIN=node1:29500 launch/many-nodes.sh --config CONFIG.yaml --run.dir /shared/NAME [--section.key value ...]
#
# Assumes: mixdist's environment is active on each node; run folder and packed sets lie on a disk that all share; MAIN, one
# of the nodes, can be reached from the others at its port. RANKS: processes of this node (default: its GPUs, or 1). JOB
# tells jobs that share a MAIN apart. A node that fails is waited for: torchrun starts all ranks again when it is back,
# up to RESTARTS times (default 3). Where a node has several networks, GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name one.
set -euo pipefail

: "${NODES:?set it to the number of nodes}" "${MAIN:?set it to HOST:PORT of one of the nodes}"
ranks=${RANKS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
command=(
  torchrun "--nnodes=$NODES" "--nproc_per_node=$ranks" --rdzv_backend=c10d "--rdzv_endpoint=$MAIN"
  "--rdzv_id=${JOB:-mixdist}" "--max_restarts=${RESTARTS:-3}" --shutdown_timeout=100 -m mixdist.train "$@"
)
printf '%q ' "${command[@]}"
echo
exec "${command[@]}"
