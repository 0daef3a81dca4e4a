#!/usr/bin/env bash
# Three machines, three tunnels, three stock Alertmanagers, on this one computer: a silence made on the
# first is on the others at once, and nobody on the wire between them can read it.
#
# Needs Debian 12, Rust and root. A machine is a network and a mount namespace; nothing gets a name, no
# file outside one temporary directory is written, and all of it is gone at the end, however that comes.
set -euo pipefail

readonly GOSSIP='disk 7 of db3 is out until Friday 18:00 - ask Mahdi, not Zoe'
readonly PROGRAMS='ip:iproute2 mount:mount unshare:util-linux nsenter:util-linux setpriv:util-linux
  tcpdump:tcpdump curl:curl cc:build-essential prometheus-alertmanager:prometheus-alertmanager'

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  colours
  picture
  ((EUID == 0)) || fail 'this needs root: namespaces, a TUN device, packages'
  install_what_is_missing
  build
  work=$(mktemp --directory)
  trap clean_up EXIT
  trap 'exit 130' INT TERM
  hushwire=$work/hushwire
  cp "${CARGO_TARGET_DIR:-target}/release/hushwire" "$hushwire"

  make_machines
  make_configuration
  start_tunnels
  start_alertmanagers
  gossip
  compare_captures
  wait_until_ready
  show_status
  finished=yes
}

picture() {
  cat <<'EOF'

  hushwire: Alertmanager gossip, encrypted between machines

      machine1             machine2             machine3
    Alertmanager         Alertmanager         Alertmanager
     10.99.0.1            10.99.0.2            10.99.0.3      overlay
       hush0                hush0                hush0
         |                    |                    |          (encrypted)
     192.0.2.1            192.0.2.2            192.0.2.3      underlay
         +--------------------+--------------------+
EOF
}

install_what_is_missing() {
  local missing=() pair
  for pair in $PROGRAMS; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  command -v cargo >/dev/null || fail 'cargo is missing: install Rust, https://rustup.rs'
  ((${#missing[@]})) || return 0
  step "Installing from Debian: ${missing[*]}"
  scripts/packages.sh "${missing[@]}"
}

build() {
  step 'Building: cargo build --release'
  local start=$SECONDS
  cargo build --release --locked --quiet
  say "$(du --human-readable --apparent-size "${CARGO_TARGET_DIR:-target}/release/hushwire" | cut -f1)B, one file, after $((SECONDS - start)) s"
}

# A machine is held by one process; `in_machine N command` runs something there.
make_machines() {
  step 'Three machines on one switch'
  local number
  hold 0
  in_machine 0 ip link add br0 type bridge
  in_machine 0 ip link set br0 up
  for number in 1 2 3; do
    hold "$number"
    in_machine 0 ip link add "port$number" type veth peer name eth0 netns "${holder[number]}"
    in_machine 0 ip link set "port$number" master br0 up
    in_machine "$number" ip addr add "192.0.2.$number/24" dev eth0
    in_machine "$number" ip link set eth0 up
  done
  say 'namespaces of their own: no way out, nothing to clean up by name'
}

hold() {
  mkfifo "$work/held$1"
  start "machine$1" unshare --net --mount --propagation private sh -c \
    'mount -t tmpfs machine /run && ip link set lo up && echo held >"$0" && exec sleep 600' \
    "$work/held$1"
  holder[$1]=$!
  local line=
  read -r -t 5 line <>"$work/held$1" || true
  [[ $line == held ]] || fail 'cannot make a namespace: this needs root'
}

in_machine() {
  local target=${holder[$1]}
  shift
  nsenter --target "$target" --net --mount -- "$@"
}

make_configuration() {
  step 'Keys, and one file for all machines'
  local number block_only=
  for number in 1 2 3; do
    mkdir "$work/machine$number"
    "$hushwire" init --config "$work/machine$number/hushwire.toml" --name "machine$number" \
      --address "10.99.0.$number" --endpoint "192.0.2.$number:51820" \
      $block_only >>"$work/hushwire.toml" 2>"$work/init.log"
    # [filter] stands in the file once.
    block_only=--block-only
  done
  for number in 1 2 3; do cp "$work/hushwire.toml" "$work/machine$number/"; done
  command_line 'hushwire init --name machine1 --address 10.99.0.1 \'
  say "${bold}    --endpoint 192.0.2.1:51820$plain"
  awk '/^\[\[peer\]\]/ { blocks++ } blocks < 2' "$work/hushwire.toml" | quote
  say 'three such blocks make the file; the private keys stay where they are'
}

start_tunnels() {
  step 'Three tunnels'
  local number begin
  begin=$EPOCHREALTIME
  for number in 1 2 3; do
    start "tunnel$number" nsenter --target "${holder[number]}" --net --mount -- \
      "$hushwire" up --config "$work/machine$number/hushwire.toml"
    tunnels+=("$!")
  done
  command_line 'hushwire up'
  for number in 1 2 3; do
    wait_for 5 "machine$number has no session with both others" \
      in_machine "$number" "$hushwire" wait --config "$work/machine$number/hushwire.toml" \
      --peers 2 --timeout 1
  done
  say "all up, each with a session to both others, after $(milliseconds "$begin") ms"
}

start_alertmanagers() {
  step 'Three stock Alertmanagers'
  command_line 'prometheus-alertmanager $(hushwire alertmanager-flags)'
  local number flags
  printf 'route: {receiver: nobody}\nreceivers: [{name: nobody}]\n' >"$work/alertmanager.yml"
  for number in 1 2 3; do
    flags=$("$hushwire" alertmanager-flags --config "$work/machine$number/hushwire.toml")
    ((number > 1)) || tr ' ' '\n' <<<"$flags" | quote
    # shellcheck disable=SC2086 # the flags are words
    start "alertmanager$number" nsenter --target "${holder[number]}" --net --mount -- \
      prometheus-alertmanager --config.file="$work/alertmanager.yml" \
      --storage.path="$work/data$number" --web.listen-address=127.0.0.1:9093 $flags
  done
  for number in 1 2 3; do
    wait_for 20 "machine$number's Alertmanager does not see three members" sees_three "$number"
  done
  say 'each sees all three members'
}

sees_three() {
  local status
  status=$(api "$1" status) && (($(grep --only-matching '"address":"10.99' <<<"$status" | wc -l) == 3))
}

api() {
  local number=$1 path=$2
  shift 2
  in_machine "$number" curl --silent --fail --max-time 5 "$@" "http://127.0.0.1:9093/api/v2/$path"
}

gossip() {
  step 'A silence, made on machine1'
  say "\"$GOSSIP\""
  # memberlist tells of each member four times, 200 ms apart, and compresses what shares a packet with that.
  sleep 2
  capture overlay hush0
  capture underlay eth0
  local number begin
  for number in 2 3; do
    start "arrival$number" nsenter --target "${holder[number]}" --net --mount -- \
      bash -c "$(declare -f watch_for); watch_for \"\$1\" >\"\$2\"" - "$GOSSIP" "$work/arrival$number"
    watcher[number]=$!
  done
  begin=$EPOCHREALTIME
  api 1 silences --output "$work/silence" --header 'Content-Type: application/json' --data @- <<EOF
{"matchers": [{"name": "instance", "value": "db3", "isRegex": false}], "createdBy": "demo",
 "startsAt": "2020-01-01T00:00:00Z", "endsAt": "2100-01-01T00:00:00Z", "comment": "$GOSSIP"}
EOF
  for number in 2 3; do
    wait "${watcher[number]}" || fail "the silence did not reach machine$number within 10 s"
    say "machine$number has it after $(milliseconds "$begin" "$(<"$work/arrival$number")") ms"
  done
  say "(Alertmanager hands its gossip out every 200 ms; the rest is the way)"
  wait_for 3 'the silence is not even in the capture of hush0' \
    grep --quiet --text --fixed-strings "$GOSSIP" "$work/overlay.pcap"
  # Each message is sent some four times: a few more packets for the captures.
  sleep 0.5
}

# Runs inside a machine: asks its Alertmanager every few milliseconds, prints when the text is there.
watch_for() {
  local end=$((SECONDS + 10)) answer
  while ((SECONDS < end)); do
    exec {socket}<>/dev/tcp/127.0.0.1/9093
    printf 'GET /api/v2/silences HTTP/1.0\r\n\r\n' >&"$socket"
    answer=$(cat <&"$socket")
    exec {socket}>&-
    if [[ $answer == *"$1"* ]]; then
      echo "$EPOCHREALTIME"
      return
    fi
  done
  return 1
}

capture() {
  start "$1" nsenter --target "${holder[1]}" --net --mount -- \
    tcpdump -i "$2" -w "$work/$1.pcap" -U --immediate-mode -Z root udp
  capturer[$2]=$!
  wait_for 5 "tcpdump does not listen on $2" grep --quiet 'listening on' "$work/$1.log"
}

compare_captures() {
  step 'What can be read: inside the tunnel, and on the wire'
  local interface
  for interface in hush0 eth0; do
    kill "${capturer[$interface]}"
    wait "${capturer[$interface]}" || true
  done
  local seen at
  # The first packet with the text: tcpdump prints a head line with the time before each packet.
  read -r at seen < <(packets overlay -A | awk -v text="$GOSSIP" '
    /^[0-9]+\.[0-9]+ IP/ { number++; time = $1 } index($0, text) { print time, number; exit }')
  say "hush0 on machine1, gossip on its way to a peer:"
  packets overlay -X | block "$seen" | around_the_text | quote
  say "eth0 on machine1, the same packet on the wire:"
  seen=$(packets underlay | awk -v at="$at" '$1 >= at && $3 ~ /^192\.0\.2\.1\./ { print NR; exit }')
  packets underlay -X | block "${seen:-1}" | sed -n '3,10p' | quote
  local inside outside sent
  inside=$(grep --only-matching --text --fixed-strings "$GOSSIP" "$work/overlay.pcap" | wc -l)
  outside=$(grep --only-matching --text --fixed-strings "$GOSSIP" "$work/underlay.pcap" | wc -l || true)
  sent=$(packets underlay | wc -l)
  say "packets with that text: ${bold}$inside through hush0, $outside of $sent through eth0$plain"
  ((inside > 0 && outside == 0)) || fail 'the gossip can be read on the wire'
}

packets() {
  tcpdump -n -tt -r "$work/$1.pcap" "${@:2}" 2>/dev/null
}

# Of those hexadecimal lines: the ones with the text, and three above. Their 51st column begins what
# is readable, 16 characters a line, a dot for each space.
around_the_text() {
  awk -v text="${GOSSIP// /.}" '
    { line[NR] = $0; readable = readable substr($0, 51) }
    END {
      first = int((index(readable, text) - 1) / 16) + 1
      for (i = first - 3; i < first + 5; i++) print line[i]
    }'
}

# Of the output of tcpdump -X: the hexadecimal lines of one packet.
block() {
  awk -v want="$1" '/^[0-9]+\.[0-9]+ IP/ { number++; next } number == want { sub(/^\t/, ""); print }'
}

wait_until_ready() {
  step 'Settled'
  local number
  for number in 1 2 3; do
    wait_for 30 "machine$number's cluster is not ready" is_ready "$number"
  done
  say "cluster status \"ready\" on all three (Alertmanager takes its 10 s for that)"
  local left
  left=$(in_machine 1 curl --silent http://127.0.0.1:9093/metrics |
    awk '$1 == "alertmanager_cluster_peers_left_total" { print $2 }')
  say "members ever lost: ${left:-none}"
}

is_ready() {
  api "$1" status | grep --quiet '"status":"ready"'
}

show_status() {
  step 'machine1'
  command_line 'hushwire status'
  in_machine 1 "$hushwire" status --config "$work/machine1/hushwire.toml" | quote
}

# --- the stage ---

declare -a holder=() watcher=()
declare -A capturer=()
started=()
tunnels=()
work=
finished=

colours() {
  bold= faint= green= red= plain=
  if [[ -t 1 && -z ${NO_COLOR-} ]]; then
    bold=$'\e[1m' faint=$'\e[2m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'
  fi
}

step() { printf '\n%s> %s%s\n' "$bold" "$1" "$plain"; }
say() { printf '  %s\n' "$1"; }
command_line() { printf '  %s$ %s%s\n' "$bold" "$1" "$plain"; }
quote() { sed "s/^/    $faint/; s/\$/$plain/"; }

fail() {
  printf '\n%sFailed: %s%s\n' "$red" "$1" "$plain" >&2
  exit 1
}

# Starts something that dies with this script; its output goes to a log; $! is its pid.
start() {
  local name=$1
  shift
  setpriv --pdeathsig KILL -- "$@" >"$work/$name.log" 2>&1 &
  started+=("$!")
}

# wait_for SECONDS COMPLAINT COMMAND...
wait_for() {
  local end=$((SECONDS + $1)) complaint=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || fail "$complaint"
    sleep 0.05
  done
}

# Milliseconds from a moment to another or to now.
milliseconds() {
  local from=${1/[.,]/} to=${2:-$EPOCHREALTIME}
  echo $(((${to/[.,]/} - from) / 1000))
}

clean_up() {
  local code=$? log
  trap - EXIT
  if [[ -z $finished ]]; then
    for log in "$work"/*.log; do
      [[ -s $log ]] || continue
      printf '%s--- %s%s\n' "$bold" "$(basename "$log")" "$plain"
      tail -n 8 "$log" | cut -c 1-200
    done >&2
  fi
  # Asked, not killed: their keepers would wait 30 s for a successor.
  ((${#tunnels[@]} == 0)) || kill -TERM "${tunnels[@]}" 2>/dev/null || true
  ((${#tunnels[@]} == 0)) || wait "${tunnels[@]}" 2>/dev/null || true
  # Each by its pid; with its last process a namespace goes, and all that is in it.
  ((${#started[@]} == 0)) || kill -KILL "${started[@]}" 2>/dev/null || true
  wait 2>/dev/null || true
  rm -r "$work"
  [[ -n $finished ]] || exit "$((code == 0 ? 1 : code))"
  printf '\n%sAll of it is gone again: processes, namespaces, files.%s\n' "$faint" "$plain"
  printf '%s%sDone: three Alertmanagers, one private gossip, nothing to read.%s\n' \
    "$bold" "$green" "$plain"
}

main "$@"
