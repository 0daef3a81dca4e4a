#!/usr/bin/env bash
# Measures hushwire beside wireguard-go (Debian's), boringtun-cli (from crates.io) and the wire without a
# tunnel, in network namespaces, and draws the picture. What is measured: tests/bench/tunnels/main.rs.
#
# HUSHWIRE=FILE in the environment measures that program in place of target/release/hushwire.
# Installs what is missing from Debian (as root), and boringtun-cli into target/tools. Samples and
# picture go to target/bench.
set -euo pipefail

readonly USAGE='usage: scripts/bench.sh [--quick] [--rounds N] [--readme] [--from FILE] [MEASURE...]
       scripts/bench.sh --functions [--quick] [FILTER]
  --quick      one short round: shows that it works, and no figure to trust
  --readme     writes table and picture for README.md as well; takes all measures
  --from FILE  shows the samples of an earlier run
  --functions  times the hot functions by criterion, and counts their allocations
measures: tcp tcp4 udp ping start recovery idle size; of hushwire alone: peers flows packet'
readonly PROGRAMS=(ip:iproute2 mount:mount unshare:util-linux nsenter:util-linux setpriv:util-linux
  ping:iputils-ping ss:iproute2 wg:wireguard-tools wireguard-go:wireguard-go iperf3:iperf3
  strip:binutils gnuplot:gnuplot-nox cc:build-essential)

main() {
  case "${1-}" in
    --help | -h) echo "$USAGE" && exit ;;
  esac
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  . scripts/common.sh

  programs "${PROGRAMS[@]}"
  local bench=(cargo bench --locked --quiet --manifest-path tests/bench/Cargo.toml --target-dir target/bench)
  if [[ ${1-} == --functions ]]; then
    CRITERION_HOME=$PWD/target/bench/criterion "${bench[@]}" --profile functions \
      --bench packets --bench allowed_ips --bench offload -- "${@:2}"
    return
  fi
  cargo build --release --locked --quiet
  "${bench[@]}" --bench tunnels --no-run
  in_namespaces "${bench[@]}" --offline --bench tunnels -- "$@"
}

main "$@"
