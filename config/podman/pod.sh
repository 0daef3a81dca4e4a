#!/bin/sh
# The same pod without quadlet, for podman 4.3 and later: run as root. OVERLAY and PEER by the environment.
set -eu
podman pod create --name alertmanager --publish 51820:51820/udp --publish 9093:9093
podman run --detach --pod alertmanager --name hushwire --restart always \
  --cap-drop ALL --cap-add NET_ADMIN --device /dev/net/tun \
  --security-opt no-new-privileges --read-only --tmpfs /var/run \
  --volume /etc/hushwire:/etc/hushwire:ro localhost/hushwire
until podman exec hushwire /hushwire wait --timeout 1; do sleep 1; done
podman run --detach --pod alertmanager --name alertmanager-app --restart always \
  docker.io/prom/alertmanager --config.file=/etc/alertmanager/alertmanager.yml \
  --cluster.listen-address="${OVERLAY:-10.99.0.1}:9094" --cluster.peer="${PEER:-10.99.0.2}:9094"
