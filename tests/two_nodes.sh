#!/usr/bin/env bash
# Two nodes on one machine: runs a command in each of two network namespaces that a veth pair connects (root).
#
#   two_nodes.sh NAME up              make NAME-0 (10.77.0.1) and NAME-1 (10.77.0.2)
#   two_nodes.sh NAME in NODE COMMAND...
#   two_nodes.sh NAME cut             take the link down
#   two_nodes.sh NAME down            remove both; their processes lose the network
set -euo pipefail
name=$1
action=$2
shift 2
case $action in
  up)
    ip netns add "$name-0"
    ip netns add "$name-1"
    ip link add "$name-v0" netns "$name-0" type veth peer name "$name-v1" netns "$name-1"
    for node in 0 1; do
      ip -n "$name-$node" addr add "10.77.0.$((node + 1))/24" dev "$name-v$node"
      ip -n "$name-$node" link set lo up
      ip -n "$name-$node" link set "$name-v$node" up
    done
    ;;
  in)
    node=$1
    shift
    # Both namespaces share this machine's name, which gloo would look up and find in neither.
    GLOO_SOCKET_IFNAME="$name-v$node" exec ip netns exec "$name-$node" "$@"
    ;;
  cut) ip -n "$name-0" link set "$name-v0" down ;;
  down)
    ip netns del "$name-0" || true
    ip netns del "$name-1" || true
    ;;
esac
