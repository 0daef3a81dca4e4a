# Read by boot.sh: the network driver of Docker, under the unit with its drop-in and with Docker in the booted tree.
# shellcheck shell=bash
# shellcheck disable=SC2154  # leader, place, index and the rest are those of boot.sh

driver() {
  local units=/etc/systemd/system container
  on install -D -m 644 -t "$units/hushwire.service.d" \
    /usr/share/doc/hushwire/examples/hushwire.service.d/docker-plugin.conf
  on systemctl daemon-reload
  on systemctl stop hushwire
  engine_may_run
  # Both at once, as at boot.
  on systemctl start hushwire docker || fail 'hushwire or Docker does not start'
  (($(active_since hushwire) <= $(active_since docker))) || fail 'Docker was started before it'
  echo "status: $(status_text)"
  [[ $(on stat --format '%U %a' /run/docker/plugins) == 'root 711' ]] || fail 'the directory is not as Docker makes it'
  [[ $(process_status Uid) == 0 ]] || fail 'it is not user 0'
  rights 'The interface in another network namespace' "$(capability_set net_admin sys_ptrace sys_admin)" \
    hushwire hushwire-helper

  image
  on docker network create --driver hushwire --ipam-driver hushwire gossip >/dev/null || fail 'no network'
  on docker run --detach --restart always --network gossip --name box small sleep 3600 >/dev/null || fail 'no container'
  place=(docker exec box)
  pings_pass
  container_is_known
  on systemctl reload hushwire || fail 'a good file is refused'
  under_pings restart on systemctl restart hushwire
  accident 'kill -9 of the main process' "$(main_pid)"
  nothing_left hushwire hushwire-helper
  accident 'kill -9 of the helper' "$(helper_pid)"
  nothing_left hushwire hushwire-helper

  # Docker restarts what ran, in a namespace of its own.
  container=$inhabitant
  on systemctl restart docker || fail 'Docker does not restart'
  pings_pass
  container_is_known
  [[ $inhabitant != "$container" ]] || fail 'it is the same container'
  echo "Docker was restarted, and its container has $(on "${place[@]}" ip -brief address show hush0)"
  on systemctl stop docker.socket docker hushwire
  on systemctl start hushwire docker || fail 'hushwire or Docker does not start once more'
  pings_pass
  echo 'both were stopped and started: the container is back'

  on docker rm --force box >/dev/null || fail 'the container stays'
  until_true 10 says 'no container' || fail "status: $(status_text)"
  on docker network rm gossip >/dev/null || fail 'the network stays'
  on systemctl stop docker.socket docker containerd hushwire
  [[ -z $(on ls -A /run/docker/plugins) ]] || fail 'its socket stays'
  place=()
  on rm -r "$units/hushwire.service.d"
  on systemctl daemon-reload
  on systemctl start hushwire || fail 'hushwire does not start without it'
  [[ $(process_status Uid) != 0 ]] || fail 'it runs as root'
  until_true 10 says '1 of 1 peers up' || fail "status: $(status_text)"
  index=$(interface_index)
}

# systemd-nspawn shows old control groups (v1) as they are here, to read alone. Docker's own go with this run.
engine_may_run() {
  on sh -c 'while read -r _ mount kind _; do
    [ "$kind" != cgroup ] || mount -o remount,bind,rw "$mount"; done </proc/mounts'
  printf '{"cgroup-parent": "/%s"}\n' "$CGROUP" | on sh -c 'mkdir -p /etc/docker && cat >/etc/docker/daemon.json'
}

active_since() {
  on systemctl show --value --property ActiveEnterTimestampMonotonic "$1"
}

# An image of what the tree has: a shell, ping, ip, and what they need.
image() {
  on sh -ec 'mkdir -p /root/small && cd /root/small
    programs="/bin/sh /bin/sleep /bin/ping /bin/ip"
    for file in $programs $(ldd $programs | grep -o "/lib[^ ]*" | sort -u); do
      cp --parents --dereference "$file" .
    done
    tar --create . | docker import - small >/dev/null' || fail 'no image'
}

pings_pass() {
  until_true 30 on "${place[@]}" ping -q -c 1 -W 1 10.99.0.1 || fail 'no ping from there'
  until_true 10 ping -q -c 1 -W 1 10.99.0.2 || fail 'no ping towards it'
}

# What is there once all is well.
container_is_known() {
  inhabitant=$(outside_pid "$(on docker inspect --format '{{.State.Pid}}' box)") || fail 'where is the container?'
  index=$(interface_index)
  until_true 10 on "${place[@]}" ip route show 10.99.0.1 metric 4294967294 || fail 'no route that stays'
  network_state >"$BOOT/network"
}
