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
  prometheus-alertmanager:prometheus-alertmanager iperf3:iperf3 nft:nftables ss:iproute2'

# The other neighbour that hushwire must get on with. Debian has none.
readonly BORINGTUN=0.7.1

main() {
  quick=
  case "${1-}" in
    '') ;;
    --quick) quick=yes ;;
    *) echo "$USAGE" >&2 && exit 2 ;;
  esac
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

  part 'programs' programs
  part 'format' format
  part 'lints' lints
  part 'documentation' documentation
  part 'build of the tests' cargo test --locked --no-run --quiet
  part 'tests' tests
  part 'virtual time' virtual_time
  if [[ -z $quick ]]; then
    part 'fuzz' fuzz
    part 'optimised build' cargo build --release --locked --quiet
    part 'namespace suite' namespace_suite
  fi
  echo
  printf '%s\n' "${took[@]}"
  [[ -z $quick ]] || echo "left out by --quick: fuzz, tests/netns, tests named *${SLOW[*]}*"
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

programs() {
  local missing=() pair component
  for pair in $PROGRAMS; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  if ((${#missing[@]})); then
    if ((EUID != 0)); then
      echo "missing; as root: apt-get install ${missing[*]}" >&2
      return 1
    fi
    echo "installing from Debian: ${missing[*]}"
    scripts/install.sh "${missing[@]}" || return 1
  fi
  if ! command -v cargo >/dev/null; then
    echo 'cargo is missing: install Rust, https://rustup.rs' >&2
    return 1
  fi
  for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 && continue
    rustup component add "${component/fmt/rustfmt}" || return 1
  done
  if [[ ! -x target/tools/bin/boringtun-cli ]]; then
    echo "installing boringtun-cli $BORINGTUN from crates.io, once; this takes a minute or two"
    cargo install boringtun-cli --version "$BORINGTUN" --locked --quiet --root target/tools || return 1
  fi
  echo 'all there'
}

format() {
  cargo fmt --check && cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
}

# The namespace suite is no test of plain `cargo test`, and so none of all targets.
lints() {
  cargo clippy --locked --all-targets --quiet -- -D warnings &&
    cargo clippy --locked --test netns --quiet -- -D warnings
}

documentation() {
  RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --quiet
}

# A package of its own, so that boringtun's mock clock stays out of the program.
virtual_time() {
  local package=(--locked --manifest-path tests/time/Cargo.toml --target-dir target/time)
  cargo fmt --check --manifest-path tests/time/Cargo.toml &&
    cargo clippy "${package[@]}" --all-targets --quiet -- -D warnings &&
    cargo test "${package[@]}" --quiet -- --show-output
}

# One test at a time: it measures.
namespace_suite() {
  cargo test --locked --test netns --no-run --quiet &&
    in_namespaces cargo test --locked --offline --quiet --test netns -- --test-threads=1 --show-output
}

tests() {
  local skip=() word
  if [[ -n $quick ]]; then
    for word in "${SLOW[@]}"; do skip+=(--skip "$word"); done
  fi
  # Most of these tests wait for something most of the time: more of them than processors.
  in_namespaces cargo test --locked --offline --quiet -- --test-threads=4 --show-output "${skip[@]}"
}

# Everything was built before: inside the namespace there is no way to a registry.
in_namespaces() {
  local namespace=(unshare --net --mount --propagation private)
  if ((EUID != 0)); then
    echo 'not root: the tests run inside a user namespace'
    namespace=(unshare --user --map-root-user --net --mount)
  fi
  if ! "${namespace[@]}" true; then
    echo 'no namespaces to be had: run as root, or allow user namespaces to everybody' >&2
    return 1
  fi
  "${namespace[@]}" sh -c 'ip link set lo up && exec "$@"' - "$@"
}

# A minute a target finds what is new and near; `scripts/fuzz.sh 3600` looks further.
fuzz() {
  cargo clippy --locked --quiet --manifest-path tests/fuzz/Cargo.toml --target-dir target/fuzz \
    -- -D warnings && scripts/fuzz.sh 60
}

main "$@"
