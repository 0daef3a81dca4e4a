#!/usr/bin/env bash
# The Debian package and its unit under a booted systemd: install, start, reload, restart, kill, watchdog,
# upgrade, purge, with a ping every 10 ms across all that shall lose nothing.
#
#      here                                    a Debian tree, booted by systemd-nspawn
#   10.99.0.1, hush0                          10.99.0.2, hush0                           overlay
#   hushwire up                               hushwire.service
#   192.0.2.1/24, outside0 ------------------ 192.0.2.2/24, eth0                         underlay
#
# As root; takes a minute or two, and more the first time: it makes the tree (mmdebstrap, a download of 130 MB)
# and the package. Everything is below target/boot, and in namespaces that go when this ends.
set -euo pipefail

readonly USAGE='usage: scripts/boot.sh [RESTARTS]
  RESTARTS  how many restarts are tried, default 3'
readonly PROGRAMS='mmdebstrap:mmdebstrap systemd-nspawn:systemd-container dpkg-shlibdeps:dpkg-dev ip:iproute2
  unshare:util-linux nsenter:util-linux ping:iputils-ping perl:perl-base nft:nftables tcpdump:tcpdump
  prometheus-alertmanager:prometheus-alertmanager amtool:prometheus-alertmanager'
readonly BOOT=target/boot
# The containers of the booted machine are below this control group.
readonly CGROUP=hushwire-boot-$$
# So many pings may be lost across a restart: those on their way when the process ends.
readonly MOST_LOST=3

main() {
  if [[ ${1-} == inside ]]; then
    shift
    inside "$@"
    return
  fi
  [[ ${1-3} =~ ^[0-9]+$ ]] || { echo "$USAGE" >&2; exit 2; }
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  if ((EUID != 0)); then
    echo 'a system is booted by root only' >&2
    exit 1
  fi
  . scripts/common.sh
  # shellcheck disable=SC2086
  programs $PROGRAMS
  mkdir -p "$BOOT"
  local version
  for version in 1 2; do
    scripts/package.sh --deb-version "0.0.1-$version" --output "$BOOT/$version.deb"
  done
  # Docker is there, and does not run until its step.
  if [[ ! -e $BOOT/debian.tar ]]; then
    mmdebstrap --quiet --variant=minbase --include=systemd,systemd-sysv,dbus,iproute2,iputils-ping,docker.io \
      --customize-hook='chroot "$1" systemctl disable --quiet docker.service docker.socket containerd.service' \
      "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$BOOT/new.tar"
    mv "$BOOT/new.tar" "$BOOT/debian.tar"
  fi
  in_namespaces scripts/boot.sh inside "${1:-3}"
}

inside() {
  restarts=$1
  # In which namespace the interface is: words before a command on the booted machine.
  place=()
  . scripts/boot_accidents.sh
  . scripts/boot_driver.sh
  trap clean_up EXIT
  boot
  step 'install: nothing runs, nothing is enabled' fresh_install
  step 'first start: ready, of a user of its own' first_start
  step 'reload: the file is read again, and one with errors is refused' reload
  step 'another private key, by reload, under a ping every 10 ms' another_key
  step "restart, $restarts times, under a ping every 10 ms" restart
  step 'kill -9 under a ping every 10 ms' killed
  step 'the interface is deleted under a running Alertmanager' deleted
  step 'watchdog: the packet loop stands still' watchdog
  step 'a second one: hushwire@office' instance
  step 'upgrade under a ping every 10 ms' upgrade
  step 'Alertmanager as a unit in a namespace of its own, and the interface with it' namespaced
  step 'Docker, with hushwire as its network driver' driver
  step 'stop: the interface goes' stopped
  step 'purge: nothing is left' purge
  echo
  echo 'All good.'
}

step() {
  printf '\n== %s\n' "$1"
  current=$1
  "$2"
}

# A command on the booted machine.
on() {
  nsenter --target "$leader" --mount --net --pid --uts --ipc --cgroup -- "$@"
}

fail() {
  printf 'Failed: %s: %s\n' "$current" "$*" >&2
  on journalctl --no-pager --lines 40 --unit 'hushwire*' --unit alertmanager >&2 || true
  exit 1
}

# until_true SECONDS COMMAND...
until_true() {
  local end=$((SECONDS + $1))
  shift
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || return 1
    sleep 0.05
  done
}

boot() {
  current=boot
  tree=$BOOT/tree
  rm -rf --one-file-system "$tree"
  mkdir -p "$tree" "$BOOT/dev"
  tar --extract --file "$BOOT/debian.tar" --directory "$tree" --numeric-owner
  # No two of these may have the same, and systemd would ask for it.
  : >"$tree/etc/machine-id"
  cp "$BOOT"/{1,2}.deb "$tree/root/"
  # Everybody's, as udev makes it; a bind of our own might be for root alone.
  [[ -e $BOOT/dev/tun ]] || mknod -m 666 "$BOOT/dev/tun" c 10 200
  mkdir -p /run/wireguard
  mount -t tmpfs -o mode=700 wireguard /run/wireguard

  local start=$SECONDS
  # What systemd-nspawn refuses: Landlock; and for Docker keys of the kernel, and rules for devices.
  systemd-nspawn --quiet --directory="$tree" --machine="hushwire-$$" --boot --register=no --keep-unit \
    --network-veth-extra=outside0:eth0 --capability=CAP_NET_ADMIN,CAP_IPC_LOCK \
    --system-call-filter='landlock_create_ruleset landlock_add_rule landlock_restrict_self add_key keyctl bpf' --bind="$PWD/$BOOT/dev/tun:/dev/net/tun" \
    --bind-ro=/usr/bin/prometheus-alertmanager --bind-ro=/usr/share/prometheus/alertmanager \
    --console=pipe </dev/null >"$BOOT/console" 2>&1 &
  nspawn=$!
  until_true 20 ip link set outside0 up || { cat "$BOOT/console" >&2; fail 'systemd-nspawn made no machine'; }
  # Its first process is nspawn's grandchild or child, by version; it is the one that is 1 in there.
  until_true 20 find_leader || fail 'no first process'
  until_true 60 booted || fail "systemd does not come up: $(tail -n 5 "$BOOT/console")"
  ip address add 192.0.2.1/24 dev outside0
  on ip address add 192.0.2.2/24 dev eth0
  on ip link set eth0 up
  echo "booted $(on systemctl --version | head -n 1) in $((SECONDS - start)) s"
}

find_leader() {
  local pid
  for pid in $(descendants "$nspawn"); do
    if [[ $(awk '/^NSpid:/ {print $NF}' "/proc/$pid/status") == 1 ]]; then
      leader=$pid
      return 0
    fi
  done
  return 1
}

# The id that a process of the booted machine has here; one in a container has a third.
outside_pid() {
  local pid place
  place=$(awk '/^NSpid:/ {print NF}' "/proc/$leader/status")
  for pid in $(descendants "$leader"); do
    if [[ $(awk -v place="$place" '/^NSpid:/ {print $place}' "/proc/$pid/status") == "$1" ]]; then
      echo "$pid"
      return 0
    fi
  done
  return 1
}

descendants() {
  local child
  for child in $(cat /proc/"$1"/task/*/children 2>/dev/null); do
    echo "$child"
    descendants "$child"
  done
}

booted() {
  case $(on systemctl is-system-running 2>/dev/null) in running | degraded) ;; *) return 1 ;; esac
}

clean_up() {
  local status=$?
  local pid
  for pid in ${tcpdump-} ${gossiper-} ${peer-}; do kill "$pid" 2>/dev/null || true; done
  if [[ -n ${nspawn-} ]]; then
    # SIGTERM to nspawn asks the machine to power off.
    kill "$nspawn" 2>/dev/null || true
    until_true 15 gone "$nspawn" || kill -KILL "$nspawn" 2>/dev/null || true
    wait "$nspawn" 2>/dev/null || true
  fi
  find /sys/fs/cgroup -depth -type d -path "*/$CGROUP*" -exec rmdir {} + || true
  rm -rf --one-file-system "$BOOT/tree" "$BOOT/peer"
  return "$status"
}

gone() {
  ! kill -0 "$1" 2>/dev/null
}

fresh_install() {
  on dpkg --install /root/1.deb >"$BOOT/install" 2>&1 || fail "dpkg: $(cat "$BOOT/install")"
  [[ $(on systemctl is-enabled hushwire 2>/dev/null) == disabled ]] || fail 'it is enabled'
  [[ $(on systemctl is-active hushwire) == inactive ]] || fail 'it runs'
  on test -x /usr/bin/hushwire -a -e /usr/share/man/man8/hushwire.8.gz -a -d /etc/hushwire || fail 'files are missing'
  # Without a configuration there is nothing to start, and that is no failure.
  on systemctl start hushwire || fail 'a start without a configuration fails'
  [[ $(on systemctl is-failed hushwire) == inactive ]] || fail 'it failed'
}

first_start() {
  mkdir -p "$BOOT/peer"
  target/release/hushwire init --name here --address 10.99.0.1 --endpoint 192.0.2.1:51820 \
    --config "$BOOT/peer/hushwire.toml" >"$BOOT/peer/blocks" 2>/dev/null
  on hushwire init --name there --address 10.99.0.2 --endpoint 192.0.2.2:51820 --block-only \
    2>/dev/null >>"$BOOT/peer/blocks"
  cp "$BOOT/peer/blocks" "$BOOT/peer/hushwire.toml"
  on tee /etc/hushwire/hushwire.toml <"$BOOT/peer/blocks" >/dev/null
  on chmod 644 /etc/hushwire/hushwire.toml
  target/release/hushwire up --config "$BOOT/peer/hushwire.toml" >"$BOOT/peer.log" 2>&1 &
  peer=$!
  until_true 10 target/release/hushwire wait || fail "the peer does not start: $(cat "$BOOT/peer.log")"

  on systemctl enable --now --quiet hushwire 2>/dev/null || fail 'it does not start'
  # READY was said: the overlay has to be there in this very moment.
  on ip -oneline address show hush0 | grep -q 'inet 10.99.0.2/32' || fail 'ready without its address'
  until_true 10 says '1 of 1 peers up' || fail "status: $(status_text)"
  ping -q -c 1 -W 5 10.99.0.2 >/dev/null || fail 'no ping'
  on hushwire status >/dev/null || fail 'root may not ask it'
  [[ $(on systemctl show --value --property NFileDescriptorStore hushwire) == 3 ]] || fail 'TUN and sockets are not kept'
  echo "status: $(status_text)"
  [[ $(process_status Uid) != 0 ]] || fail 'it runs as root'
  rights 'The interface in the network namespace of hushwire' "$(capability_set net_admin)" hushwire
  index=$(interface_index)
}

main_pid() {
  on systemctl show --value --property MainPID hushwire
}

process_status() {
  on awk -v field="$1:" '$1 == field {print $2}' "/proc/$(main_pid)/status"
}

status_text() {
  on systemctl show --value --property StatusText "${1:-hushwire}"
}

says() {
  [[ $(status_text) == *"$1"* ]]
}

interface_index() {
  on "${place[@]}" ip -oneline link show hush0 | cut -d : -f 1
}

reload() {
  local before
  before=$(main_pid)
  on systemctl reload hushwire || fail 'a good file is refused'
  until_true 5 running || fail "after a reload: $(on systemctl is-active hushwire)"
  on cp /etc/hushwire/hushwire.toml /root/good.toml
  echo 'colour = 1' | on tee -a /etc/hushwire/hushwire.toml >/dev/null
  if on systemctl reload hushwire 2>/dev/null; then fail 'a file with errors is taken'; fi
  # Past the check, by the signal alone, it is refused as well and the status says so.
  on systemctl kill --signal HUP --kill-whom main hushwire
  until_true 5 says 'reload refused' || fail "status: $(status_text)"
  on cp /root/good.toml /etc/hushwire/hushwire.toml
  on systemctl reload hushwire || fail 'the good file is refused now'
  until_true 5 says 'peers up' && ! says refused || fail "status: $(status_text)"
  [[ $(main_pid) == "$before" && $(interface_index) == "$index" ]] || fail 'it was restarted'
  echo "status: $(status_text)"
}

# What systemd handed over at the start is the old key.
another_key() {
  local before
  before=$(main_pid)
  under_pings 'another key' change_key
  [[ $(main_pid) == "$before" ]] || fail 'it was restarted'
  until_true 10 says '1 of 1 peers up' || fail "status: $(status_text)"
}

change_key() {
  local old new
  old=$(on hushwire check | awk '/^public key/ {print $3}')
  on sh -c 'umask 077 && cd /etc/hushwire && hushwire genkey >new.key && mv new.key private.key'
  new=$(on sh -c 'hushwire pubkey </etc/hushwire/private.key')
  on sed -i "s|$old|$new|" /etc/hushwire/hushwire.toml /root/good.toml
  on systemctl reload hushwire || return 1
  [[ $(on hushwire status --json) == *"$new"* ]] || return 1
  sed -i "s|$old|$new|" "$BOOT/peer/hushwire.toml"
  target/release/hushwire reload --config "$BOOT/peer/hushwire.toml"
}

running() {
  [[ $(on systemctl is-active hushwire) == active ]]
}

# under_pings NAME COMMAND...: pings of both sides, every 10 ms for two seconds and more.
under_pings() {
  local name=$1 start end
  shift
  local options=(-q -n -i 0.01 -c 250 -W 2)
  on "${place[@]}" ping "${options[@]}" 10.99.0.1 >"$BOOT/out" &
  local out=$!
  ping "${options[@]}" 10.99.0.2 >"$BOOT/in" &
  local in=$!
  sleep 0.3
  start=$(date +%s%N)
  "$@" || fail "$name"
  end=$(date +%s%N)
  wait "$out" "$in" || true
  printf '%s: %d ms; of 250 pings each, %d were lost from it, %d towards it\n' \
    "$name" $(((end - start) / 1000000)) "$(lost out)" "$(lost in)"
  (($(lost out) <= MOST_LOST && $(lost in) <= MOST_LOST)) || fail 'too many pings are lost'
  [[ $(interface_index) == "$index" ]] || fail 'the interface is another'
  running || fail "it is $(on systemctl is-active hushwire)"
}

lost() {
  awk '/packets transmitted/ {print $1 - $4}' "$BOOT/$1"
}

restart() {
  local count before
  for ((count = 0; count < restarts; count++)); do
    before=$(main_pid)
    under_pings restart on systemctl restart hushwire
    [[ $(main_pid) != "$before" ]] || fail 'it is the same process'
  done
}

# One thread stops, as a debugger stops it (PTRACE_SEIZE, PTRACE_INTERRUPT), and all others go on.
watchdog() {
  local thread ptrace start=$SECONDS
  before=$(main_pid)
  case $(uname -m) in
    x86_64) ptrace=101 ;;
    aarch64) ptrace=117 ;;
    *) fail "which number has ptrace on $(uname -m)?" ;;
  esac
  thread=$(grep -l '^packets$' "/proc/$(outside_pid "$before")"/task/*/comm | cut -d / -f 5)
  # Whoever traces has to take notice of its death.
  timeout 60 perl -e 'my ($call, $thread) = (shift, shift);
    for my $request (0x4206, 0x4207) {
      syscall($call, $request + 0, $thread + 0, 0, 0) == 0 or die "ptrace: $!\n";
    }
    1 while waitpid($thread, 0x40000000) > 0;' "$ptrace" "$thread" &
  local tracer=$!
  until_true 25 another_is_up || fail 'it was not started again'
  echo "killed and started again after $((SECONDS - start)) s"
  wait "$tracer" || fail 'the thread was not stopped'
  until_true 5 by_watchdog || fail 'not by the watchdog'
  [[ $(interface_index) == "$index" ]] || fail 'the interface is another'
  until_true 10 says '1 of 1 peers up' || fail "status: $(status_text)"
}

by_watchdog() {
  on journalctl --no-pager --unit hushwire | awk -v killed="Killing process $before " '
    /Watchdog timeout/ { expired = 1 }
    expired && index($0, killed) { found = 1 }
    END { exit !found }'
}

instance() {
  on sh -c 'umask 077 && hushwire genkey >/etc/hushwire/office.key'
  on sh -c 'printf "[interface]\nname = \"office0\"\nprivate_key_file = \"office.key\"\naddress = [\"10.98.0.1/24\"]\n" \
    >/etc/hushwire/office.toml; printf "listen_port = 51821\n" >>/etc/hushwire/office.toml'
  on systemctl start hushwire@office || fail 'it does not start'
  on ip -oneline address show office0 | grep -q 'inet 10.98.0.1/24' || fail 'no address'
  on hushwire status --interface hush0 >/dev/null && on hushwire status --interface office0 >/dev/null ||
    fail 'one is in the other'\''s way'
  echo "status: $(status_text hushwire@office)"
}

upgrade() {
  before=$(main_pid)
  under_pings upgrade on dpkg --install /root/2.deb >"$BOOT/upgrade"
  grep ms "$BOOT/upgrade"
  [[ $(on dpkg-query --show --showformat '${Version}' hushwire) == 0.0.1-2 ]] || fail 'not upgraded'
  [[ $(main_pid) != "$before" ]] || fail 'the old one runs on'
  [[ $(on systemctl is-active hushwire@office) == active ]] || fail 'the instance does not run'
}

# With the files that the package has as examples.
namespaced() {
  local examples=/usr/share/doc/hushwire/examples units=/etc/systemd/system alertmanager
  on cp -r "$examples"/{alertmanager-netns.service,alertmanager.service.d} "$units"
  on install -D -m 644 -t "$units/hushwire.service.d" "$examples/hushwire.service.d/container.conf"
  # There is no Docker.
  on sed -i /SupplementaryGroups/d "$units/hushwire.service.d/container.conf"
  on sed -i '1i [interface]\nnetns = "name:alertmanager"' /etc/hushwire/hushwire.toml
  alertmanager_unit "$(on hushwire alertmanager-flags)"
  on systemctl start alertmanager-netns || fail 'no namespace'
  on systemctl restart hushwire || fail 'hushwire does not start'
  echo "status: $(status_text)"
  on systemctl start alertmanager || fail 'Alertmanager does not start'
  place=(ip netns exec alertmanager)
  until_true 10 on "${place[@]}" ping -q -c 1 -W 1 10.99.0.1 || fail 'no ping from there'
  if on ip link show hush0 2>/dev/null; then fail 'the interface is here'; fi
  index=$(interface_index)
  alertmanager=$(on systemctl show --value --property MainPID alertmanager)
  until_true 10 listens || fail 'Alertmanager does not listen there'
  rights 'The interface in another network namespace' "$(capability_set net_admin sys_ptrace sys_admin)" \
    hushwire hushwire-helper
  on systemctl restart hushwire || fail 'hushwire does not restart'
  [[ $(interface_index) == "$index" ]] || fail 'the interface is another'
  until_true 10 on "${place[@]}" ping -q -c 1 -W 1 10.99.0.1 || fail 'no ping after a restart'
  inhabitant=$(outside_pid "$alertmanager")
  killed_beside_helper
  deleted_beside_helper
  [[ $(on systemctl show --value --property MainPID alertmanager) == "$alertmanager" ]] ||
    fail "Alertmanager was restarted, too: $(on systemctl status alertmanager)"
  place=()

  on systemctl stop alertmanager hushwire alertmanager-netns
  on sh -c "cd $units && rm -r alertmanager-netns.service alertmanager.service* hushwire.service.d"
  on cp /root/good.toml /etc/hushwire/hushwire.toml
  on systemctl daemon-reload
  on systemctl start hushwire || fail 'hushwire does not start without it'
}

listens() {
  on ip netns exec alertmanager ss -ltnH 'src 10.99.0.2:9094' | grep -q 9094
}

stopped() {
  on systemctl stop hushwire hushwire@office || fail 'systemctl stop'
  if on ip link show hush0 2>/dev/null; then fail 'the interface stays'; fi
  on ip route show 10.99.0.1 | grep -q unreachable || fail 'the way in clear is open'
  [[ -z $(on ls -A /run/wireguard) ]] || fail 'sockets are left'
}

purge() {
  on systemctl start hushwire
  on dpkg --purge hushwire >/dev/null 2>&1 || fail 'dpkg --purge'
  if on ip link show hush0 2>/dev/null; then fail 'the interface stays'; fi
  local left
  left=$(on find / -xdev -path /root -prune -o -path /proc -prune -o -iname '*hushwire*' \
    -not -path '/var/log/*' -print | grep -v -e '^/run/credentials' -e '^/sys' || true)
  [[ -z $left ]] || fail "left: $left"
  [[ -z $(on systemctl list-unit-files --no-legend 'hushwire*') ]] || fail 'units are left'
}

main "$@"
