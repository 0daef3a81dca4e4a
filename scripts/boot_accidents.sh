# Read by boot.sh: what each process of the unit may do, and what is left when one is killed or the interface is
# deleted.
# shellcheck shell=bash
# shellcheck disable=SC2154  # leader, place, index and the rest are those of boot.sh

# The processes of the unit, by their control group.
unit_pids() {
  on sh -c 'for process in /proc/[0-9]*; do
    if grep -qs "/hushwire\.service$" "$process/cgroup"; then echo "${process#/proc/}"; fi
  done' | sort -n
}

# proc FILE PID [THREAD]: what the kernel says of it.
proc() {
  on cat "/proc/$2/${3:+task/$3/}$1"
}

# manual SECTION: the lines of its table in hushwire(8), "process;thread;capabilities;lists".
manual() {
  awk -F ';' -v section=".SS $1" '
    /^\.S[SH] / { here = $0 == section }
    here && NF == 4 && $1 != "process" { gsub(/\\-/, "-"); print }' config/man/hushwire.8
}

# capability_set NAME...: as /proc writes it, without its zeros.
capability_set() {
  local name set=0
  for name; do
    case $name in
      none) ;;
      net_bind_service) ((set |= 1 << 10)) ;;
      net_admin) ((set |= 1 << 12)) ;;
      sys_ptrace) ((set |= 1 << 19)) ;;
      sys_admin) ((set |= 1 << 21)) ;;
      *) fail "which number has $name?" ;;
    esac
  done
  printf '%x' "$set"
}

# rights SECTION BOUNDING PROCESS...: the unit has these processes, and each thread of theirs the sets that the
# section of the manual says. The unit's own lists of system calls come on top, the same for all.
rights() {
  local section=$1 bounding=$2 pid thread name kind expected capabilities lists given='' seen=()
  shift 2
  local format='  %-16s %-16s %4s %7s %7s %7s %4s  %3s %8s %6s\n' values
  # shellcheck disable=SC2059
  printf "$format" process thread Inh Prm Eff Bnd Amb NNP Seccomp lists
  for pid in $(unit_pids); do
    name=$(proc comm "$pid")
    seen+=("$name")
    for thread in $(on ls "/proc/$pid/task"); do
      kind=$(proc comm "$pid" "$thread")
      read -ra values < <(proc status "$pid" "$thread" | awk '
        /^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp|Seccomp_filters):/ {
          sub(/^0+/, "", $2); printf "%s ", $2 == "" ? 0 : $2 }
          END { print "" }')
      # NoNewPrivs, Seccomp and its filters stand behind the sets.
      # shellcheck disable=SC2059
      printf "$format" "$name" "$kind" "${values[@]}"
      expected=$(manual "$section" | awk -F ';' -v name="$name" -v kind="$kind" '
        $1 == name && ($2 == kind || $2 == "all" || ($2 == "others" && kind != "packets")) { print $3 ";" $4 }')
      [[ $expected == *';'* ]] || fail "the manual has no $kind of $name"
      # shellcheck disable=SC2086
      capabilities=$(capability_set ${expected%;*})
      [[ ${values[*]:0:7} == "0 $capabilities $capabilities $bounding 0 1 2" ]] ||
        fail "$kind of $name: not $capabilities, as the manual has it"
      lists=$((values[7] - ${expected#*;}))
      [[ ${given:=$lists} == "$lists" ]] || fail "$kind of $name: not ${expected#*;} lists beside the unit's $given"
    done
    proc limits "$pid" | grep -q '^Max core file size  *0  *0 ' || fail "$name may write a core"
  done
  [[ ${seen[*]} == "$*" ]] || fail "processes: ${seen[*]}"
  on hushwire status >"$BOOT/status" || fail 'no status'
  sed -n '/^  rights /,/^$/p' "$BOOT/status"
  grep -q '^  landlock *in force$' "$BOOT/status" || fail 'Landlock is not in force'
}

# The rules and routes of the namespace in which the interface is, and the sockets, as text that stays the same.
network_state() {
  local where=(nsenter --target "$inhabitant" --net)
  "${where[@]}" ip -4 rule
  "${where[@]}" ip -6 rule
  "${where[@]}" ip -4 route show table all
  "${where[@]}" nft --stateless list ruleset 2>/dev/null
  on ls -A /run/wireguard
}

# What has to be the same after an accident: these processes in the unit and none outside of the units, each rule,
# route and socket once.
nothing_left() {
  local pid names=()
  for pid in $(unit_pids); do names+=("$(proc comm "$pid")"); done
  [[ ${names[*]} == "$*" ]] || fail "processes of the unit: ${names[*]}"
  on sh -c 'for process in /proc/[0-9]*; do
    if grep -qs ^hushwire "$process/comm" && ! grep -q "/hushwire.*\.service" "$process/cgroup"; then exit 1; fi
  done' || fail 'a process outlives its unit'
  diff "$BOOT/network" <(network_state) >&2 || fail 'rules, routes or sockets are others than before'
}

# accident NAME PID...: these processes of the unit get kill -9 under pings, and it comes back by itself.
accident() {
  local name=$1
  shift
  before=$(main_pid)
  under_pings "$name" kill_and_wait "$@"
  until_true 10 ping -q -c 1 -W 1 10.99.0.2 || fail 'no ping towards it afterwards'
}

kill_and_wait() {
  on sh -c 'kill -KILL "$@"' - "$@"
  until_true 20 another_is_up
}

another_is_up() {
  local now
  now=$(main_pid)
  [[ $now != 0 && $now != "$before" ]] && running
}

killed() {
  inhabitant=$leader
  network_state >"$BOOT/network"
  # The unit has no other process: systemd keeps the descriptors.
  accident 'kill -9 of the process' "$(main_pid)"
  nothing_left hushwire
  before=$(main_pid)
  under_pings 'kill -9 of all of the unit' kill_unit_and_wait
  nothing_left hushwire
}

kill_unit_and_wait() {
  on systemctl kill --signal KILL hushwire
  until_true 20 another_is_up
}

# With a helper, in another namespace.
killed_beside_helper() {
  network_state >"$BOOT/network"
  local both=(hushwire hushwire-helper)
  accident 'kill -9 of the helper' "$(helper_pid)"
  until_true 5 says_why || fail 'it did not say why'
  nothing_left "${both[@]}"
  accident 'kill -9 of the main process' "$(main_pid)"
  nothing_left "${both[@]}"
  accident 'kill -9 of both' "$(helper_pid)" "$(main_pid)"
  nothing_left "${both[@]}"
}

says_why() {
  # All of it is read: a journalctl that nobody listens to fails.
  on journalctl --no-pager --unit hushwire | grep 'the helper process was killed'
}

helper_pid() {
  local pid
  for pid in $(unit_pids); do
    if [[ $(proc comm "$pid") == hushwire-helper ]]; then echo "$pid"; fi
  done
}

# The interface is deleted, once for a moment and once until the watchdog comes, while Alertmanagers gossip
# through it and the way to the peer in clear is open: a default route.
deleted() {
  inhabitant=$leader
  gossip_starts
  network_state >"$BOOT/network"
  before=$(main_pid)
  capture_starts
  vanish
  until_true 20 another_is_up || fail 'it was not started again'
  back 'deleted'

  before=$(main_pid)
  on sh -c 'kill -STOP "$1"' - "$before"
  vanish
  until_true 40 another_is_up || fail 'the watchdog did not start it again'
  back 'deleted while it is stopped'
  # Both speak every second: some more times.
  sleep 5
  until_true 30 clustered || fail 'the cluster is broken'
  capture_ends
  ((captured == 0)) || fail "in clear: $(head -n 5 "$BOOT/clear")"
  nothing_left hushwire

  # Were it not for the routes that stay, there would be something to see.
  capture_starts
  on systemctl stop hushwire
  on ip route delete unreachable 10.99.0.1 metric 4294967294
  until_true 20 test -s "$BOOT/clear" || fail 'the capture would not have seen a packet'
  capture_ends
  echo "without the unreachable route, packets in clear: $captured"
  gossip_ends
  on systemctl start hushwire || fail 'it does not start again'
  index=$(interface_index)
}

# With a helper it is made anew by the same process.
deleted_beside_helper() {
  before=$(main_pid)
  vanish
  back 'deleted, beside a helper'
  [[ $(main_pid) == "$before" ]] || fail 'it was restarted'
  nothing_left hushwire hushwire-helper
}

vanish() {
  on "${place[@]}" ip link delete hush0
  vanished=$(date +%s%N)
}

# back WHAT: waits until the interface is there and a ping passes, and says how long that took.
back() {
  until_true 20 has_address || fail 'the interface is not there'
  local attached
  attached=$(since "$vanished")
  until_true 20 on "${place[@]}" ping -q -c 1 -W 1 10.99.0.1 || fail 'no ping afterwards'
  echo "$1: there again after $attached ms, a ping passes after $(since "$vanished") ms"
  index=$(interface_index)
}

has_address() {
  on "${place[@]}" ip -oneline address show hush0 | grep -q 'inet 10.99.0.2/32'
}

since() {
  echo $((($(date +%s%N) - $1) / 1000000))
}

# Every packet for the peer's overlay address that goes by the underlay interface, a line each.
capture_starts() {
  nsenter --target "$leader" --net tcpdump -n -l --immediate-mode -i eth0 'dst host 10.99.0.1' \
    >"$BOOT/clear" 2>"$BOOT/tcpdump" &
  tcpdump=$!
  until_true 10 grep -q 'listening on' "$BOOT/tcpdump" || fail "tcpdump: $(cat "$BOOT/tcpdump")"
}

capture_ends() {
  kill -INT "$tcpdump"
  wait "$tcpdump" || true
  tcpdump=
  captured=$(grep -c ' > 10\.99\.0\.1' "$BOOT/clear" || true)
  grep 'received by filter' "$BOOT/tcpdump" | sed 's/^/eth0, to the overlay address of the peer: /'
}

# One Alertmanager here, one in a unit there. They speak every second, also to a member that is lost.
gossip_starts() {
  on ip route add default via 192.0.2.1
  local hurry='--cluster.pushpull-interval=1s --cluster.reconnect-interval=1s'
  alertmanager_unit "$(on hushwire alertmanager-flags) $hurry"
  on systemctl start alertmanager || fail 'Alertmanager does not start there'
  on cat /etc/alertmanager.yml >"$BOOT/peer/alertmanager.yml"
  # shellcheck disable=SC2046,SC2086
  prometheus-alertmanager --config.file="$BOOT/peer/alertmanager.yml" --storage.path="$BOOT/peer/data" $hurry \
    $(target/release/hushwire alertmanager-flags --config "$BOOT/peer/hushwire.toml") >"$BOOT/alertmanager.log" 2>&1 &
  gossiper=$!
  until_true 30 clustered || fail "no cluster: $(tail -n 3 "$BOOT/alertmanager.log")"
}

clustered() {
  amtool --alertmanager.url=http://127.0.0.1:9093 --output=extended cluster show | grep -q 10.99.0.2
}

gossip_ends() {
  kill "$gossiper"
  wait "$gossiper" || true
  gossiper=
  on systemctl stop alertmanager
  on rm /etc/systemd/system/alertmanager.service
  on systemctl daemon-reload
  on ip route delete default
}

# alertmanager_unit FLAGS: a unit for Debian's Alertmanager.
alertmanager_unit() {
  printf 'route: {receiver: nobody}\nreceivers: [{name: nobody}]\n' | on tee /etc/alertmanager.yml >/dev/null
  on tee /etc/systemd/system/alertmanager.service >/dev/null <<END
[Service]
ExecStart=/usr/bin/prometheus-alertmanager --config.file=/etc/alertmanager.yml \
  --storage.path=/var/lib/alertmanager $1
StateDirectory=alertmanager
DynamicUser=yes
END
  on systemctl daemon-reload
}
