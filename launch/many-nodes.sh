#!/usr/bin/env bash
# Train on several nodes without a scheduler; the same line on each of them, in any order:
#
#   NODES=2 MAIN=node1:29500 launch/many-nodes.sh --config CONFIG.yaml --run.dir /shared/NAME [--section.key value ...]
#
# Assumes: mixdist's environment is active on each node; run folder and packed sets lie on a disk that all share; MAIN, one
# of the nodes, can be reached from the others at its port. RANKS: processes of this node (default: its GPUs, or 1). JOB
# tells jobs that share a MAIN apart. A node that fails, other than MAIN, is waited for: where this line is started on it again
# within 10 minutes, torchrun starts all ranks again, up to RESTARTS times (default 3). Where a node has several networks,
# GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name one.
set -euo pipefail

: "${NODES:?set it to the number of nodes}" "${MAIN:?set it to HOST:PORT of one of the nodes}"
ranks=${RANKS:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Rank 0 opens a store at each start. Where torchrun's own is, its nodes say in their first round only: one that comes back
# asks in vain, and after a minute both sides end with a traceback.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
command=(
  torchrun "--nnodes=$NODES" "--nproc_per_node=$ranks" --rdzv_backend=c10d "--rdzv_endpoint=$MAIN"
  "--rdzv_id=${JOB:-mixdist}" "--max_restarts=${RESTARTS:-3}" --shutdown_timeout=100 -m mixdist.train "$@"
)
printf '%q ' "${command[@]}"
echo
exec "${command[@]}"
