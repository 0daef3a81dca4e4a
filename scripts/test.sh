#!/usr/bin/env bash
# Everything that has to hold before a change is taken: format, lints, documentation, all tests.
#
# Installs what is missing from Debian (as root), and boringtun-cli from crates.io into target/tools.
# The tests that need namespaces run as root in a network and mount namespace of their own; without
# root, in a user namespace around that.
set -euo pipefail

readonly USAGE='usage: scripts/test.sh [--quick]
  --quick  leaves out the tests that take over half a minute'
# Tests whose names hold these words take long: a rekey comes after two minutes, and six outages, one
# after the other, last as long.
readonly SLOW=(rekey before_the_tunnel start_on_both_sides silences_made_in_an_outage)
readonly PROGRAMS='ip:iproute2 mount:mount unshare:util-linux nsenter:util-linux setpriv:util-linux
  ping:iputils-ping wg:wireguard-tools wireguard-go:wireguard-go cc:build-essential c++:g++
  prometheus-alertmanager:prometheus-alertmanager iperf3:iperf3 nft:nftables ss:iproute2
  ethtool:ethtool strace:strace tcpdump:tcpdump systemd-analyze:systemd man:man-db mandoc:mandoc
  dockerd:docker.io docker:docker.io docker-compose:docker-compose iptables:iptables podman:podman
  podman:netavark catatonit:catatonit'

main() {
  quick=
  case "${1-}" in
    '') ;;
    --quick) quick=yes ;;
    *) echo "$USAGE" >&2 && exit 2 ;;
  esac
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  . scripts/common.sh

  part 'programs' everything_there
  part 'format' format
  part 'lints' lints
  part 'documentation' documentation
  part 'build of the tests' cargo test --locked --no-run --quiet
  part 'units and manual' units_and_manual
  part 'tests' tests
  part 'virtual time' virtual_time
  part 'bench' bench
  if [[ -z $quick ]]; then
    part 'fuzz' fuzz
    part 'optimised builds' optimised_builds
    part 'namespace suite' namespace_suite
    part 'containers' containers
    part 'bench, shortly' scripts/bench.sh --quick start udp flows
  fi
  echo
  printf '%s\n' "${took[@]}"
  [[ -z $quick ]] || echo "left out by --quick: fuzz, tests/netns, tests/containers, scripts/bench.sh, tests named *${SLOW[*]}*"
  echo 'All good.'
}

took=()

part() {
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s\n' "$name"
  if ! "$@"; then
    printf '\nFailed: %s\n' "$name" >&2
    exit 1
  fi
  took+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
}

everything_there() {
  local component
  # shellcheck disable=SC2086
  programs $PROGRAMS || return 1
  for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 && continue
    rustup component add "${component/fmt/rustfmt}" || return 1
  done
  echo 'all there'
}

format() {
  cargo fmt --check && cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
}

# The namespace suite and that of containers are no tests of plain `cargo test`, and so none of all targets.
lints() {
  cargo clippy --locked --all-targets --quiet -- -D warnings &&
    cargo clippy --locked --test netns --test containers --quiet -- -D warnings
}

documentation() {
  RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
}

# The exposure is systemd's own figure, 0 to 10; the threshold is given in tenths.
units_and_manual() {
  local directory drop_in page unit
  directory=$(mktemp -d)
  cp config/*.service "$directory"
  # Without the program there, a unit does not verify.
  sed -i "s#/usr/bin/hushwire#$PWD/target/debug/hushwire#" "$directory"/*.service
  verify "$directory"/*.service || return 1
  for unit in hushwire.service hushwire@.service; do
    systemd-analyze security --offline=true --no-pager --threshold=19 "$directory/$unit" >"$directory/score" ||
      { cat "$directory/score"; return 1; }
    tail -n 1 "$directory/score" && echo
  done
  # Each drop-in by itself: they are not for one machine.
  for drop_in in config/*.service.d/*.conf; do
    unit=$(basename "$(dirname "$drop_in")" .d)
    [[ -e $directory/$unit ]] || printf '[Service]\nExecStart=/bin/true\n' >"$directory/$unit"
    mkdir "$directory/$unit.d"
    sed "s#/usr/bin/hushwire#$PWD/target/debug/hushwire#" "$drop_in" >"$directory/$unit.d/drop-in.conf"
    verify "$directory/$unit" || return 1
    if [[ $unit == hushwire.service ]]; then
      systemd-analyze security --offline=true --no-pager "$directory/$unit" >"$directory/score"
      echo "with $drop_in: $(tail -n 1 "$directory/score")"
    fi
    rm -r "$directory/$unit.d"
  done
  rm -r "$directory"
  for page in config/man/*; do
    mandoc -T lint -W warning "$page" || return 1
    # man says its warnings, and goes on.
    [[ -z $(MANWIDTH=80 LC_ALL=C.UTF-8 man --warnings --local-file "$page" 2>&1 >/dev/null) ]] || return 1
  done
  echo 'manual pages: no warnings'
}

# An unknown key is a warning to systemd, and of other units it may say what it likes.
verify() {
  local said
  said=$(systemd-analyze verify --man=no "$@" 2>&1) && [[ $said != *"$(dirname "$1")"* ]] ||
    { echo "$said" >&2; return 1; }
}

# A package of its own, so that boringtun's mock clock stays out of the program; what else it depends on was
# built for the tests.
virtual_time() {
  local package=(--locked --manifest-path tests/time/Cargo.toml --target-dir target)
  cargo fmt --check --manifest-path tests/time/Cargo.toml &&
    cargo clippy "${package[@]}" --all-targets --quiet -- -D warnings &&
    cargo test "${package[@]}" --quiet -- --show-output
}

# That it builds.
bench() {
  local package=(--locked --manifest-path tests/bench/Cargo.toml --target-dir target/bench)
  cargo fmt --check --manifest-path tests/bench/Cargo.toml &&
    cargo clippy "${package[@]}" --all-targets --quiet -- -D warnings
}

# The program and the static one. Either is one thread's work for most of its time, and so they go side by side.
optimised_builds() {
  cargo build --release --locked --quiet &
  local program=$! image
  scripts/image.sh && image=0 || image=$?
  wait "$program" && return "$image"
}

# One test at a time: it measures.
namespace_suite() {
  cargo test --locked --test netns --no-run --quiet &&
    in_namespaces cargo test --locked --offline --quiet --test netns -- --test-threads=1 --show-output
}

# Each test starts container engines of its own, which root alone can.
containers() {
  if ((EUID != 0)); then
    echo 'not root: tests/containers is left out'
    return
  fi
  cargo test --locked --test containers --no-run --quiet &&
    in_namespaces cargo test --locked --offline --quiet --test containers -- --test-threads=3 --show-output
}

tests() {
  local skip=() word
  if [[ -n $quick ]]; then
    for word in "${SLOW[@]}"; do skip+=(--skip "$word"); done
  fi
  # Most of these tests wait for something most of the time: more of them than processors.
  in_namespaces cargo test --locked --offline --quiet -- --test-threads=8 --show-output "${skip[@]}"
}

# With the corpus that is kept, some seconds a target find what is new and near; `scripts/fuzz.sh 3600` looks
# further.
fuzz() {
  cargo clippy --locked --quiet --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz \
    -- -D warnings && scripts/fuzz.sh 10
}

main "$@"
