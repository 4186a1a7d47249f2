#!/usr/bin/env bash
# Two nodes on one machine: runs commands in two network namespaces that a veth pair connects. Needs root.
#
#   two_nodes.sh NAME up                     make NAME-0 (10.77.0.1) and NAME-1 (10.77.0.2)
#   two_nodes.sh NAME in NODE COMMAND...     run a command on node 0 or 1
#   two_nodes.sh NAME cut                    take the link between them down
#   two_nodes.sh NAME down                   remove both
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
      # How long connections try again after the link is cut: 25 s instead of a quarter of an hour.
      ip netns exec "$name-$node" sysctl -q -w net.ipv4.tcp_retries2=6
      # What `ip netns exec` puts over /etc: both nodes have this machine's name, each at its own address, and no DNS.
      mkdir -p "/etc/netns/$name-$node"
      printf '127.0.0.1 localhost\n10.77.0.%s %s\n' "$((node + 1))" "$(hostname)" >"/etc/netns/$name-$node/hosts"
      printf '10.77.0.%s node%s\n' 1 0 2 1 >>"/etc/netns/$name-$node/hosts"
      echo 'nameserver 127.0.0.1' >"/etc/netns/$name-$node/resolv.conf"
    done
    ;;
  in)
    node=$1
    shift
    exec ip netns exec "$name-$node" "$@"
    ;;
  cut) ip -n "$name-0" link set "$name-v0" down ;;
  down)
    for node in 0 1; do
      ip netns del "$name-$node" || true
      rm -rf "/etc/netns/$name-$node"
    done
    ;;
esac
