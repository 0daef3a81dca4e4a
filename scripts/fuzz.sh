#!/usr/bin/env bash
# Builds the fuzz targets of tests/fuzz and runs each for SECONDS (60), guided by the code that an input
# reaches: libFuzzer, with the compiler's coverage counters, which stable Rust has as well.
#
# Two targets run at a time, and each prints a line. A crash is kept in target/fuzz/findings, and how to
# run it again is printed. What was found to reach new code is kept in target/fuzz/corpus.
set -euo pipefail

readonly USAGE='usage: scripts/fuzz.sh [SECONDS [TARGET...]]'
readonly TARGETS=(datagrams control_socket configuration packets offload filter)
# Counters for each edge, a table of what they stand for, and both sides of comparisons.
readonly COVERAGE='-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares'

main() {
  local seconds=${1-60} targets=("${@:2}") target failed=
  [[ $seconds =~ ^[0-9]+$ ]] || { echo "$USAGE" >&2 && exit 2; }
  ((${#targets[@]})) || targets=("${TARGETS[@]}")
  for target in "${targets[@]}"; do
    [[ " ${TARGETS[*]} " == *" $target "* ]] || { echo "$USAGE; targets: ${TARGETS[*]}" >&2 && exit 2; }
  done
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
  root=$PWD
  fuzz=$root/target/fuzz
  # The targets leave a directory behind when they crash; a socket's path must be short. In memory,
  # since a configuration is a file that is written thousands of times.
  scratch=$(mktemp --directory --tmpdir=/dev/shm 2>/dev/null || mktemp --directory)
  trap 'rm -rf "$scratch"' EXIT

  build
  printf '%-16s%12s%10s%10s%14s\n' target executions 'per s' coverage corpus
  # One for each of two processors.
  local running=()
  for target in "${targets[@]}"; do
    run "$target" &
    running+=($!)
    if ((${#running[@]} == 2)); then
      wait "${running[0]}" || failed=yes
      running=("${running[1]}")
    fi
  done
  for target in "${running[@]}"; do
    wait "$target" || failed=yes
  done
  [[ -z $failed ]]
}

# With --target the flags are for the targets alone, not for build scripts and macros.
build() {
  host=$(rustc -vV | sed -n 's/^host: //p')
  RUSTFLAGS="--cfg fuzzing ${COVERAGE//$'\n'/}" cargo build --locked --release --quiet \
    --manifest-path tests/fuzz/Cargo.toml --target-dir "$fuzz" --target "$host"
}

run() {
  local target=$1 log=$fuzz/$1.log binary=$fuzz/$host/release/$1
  local corpus=$fuzz/corpus/$1 findings=$fuzz/findings seeds=("tests/fuzz/corpus/$1") options=() finding
  mkdir -p "$corpus" "$findings"
  [[ $target != configuration ]] || seeds+=(tests/config_errors config)
  [[ ! -f tests/fuzz/$target.dict ]] || options+=("-dict=tests/fuzz/$target.dict")
  # An input that takes over 10 s is a finding as well.
  if ! TMPDIR=$scratch "$binary" -max_total_time="$seconds" -max_len="$(max_len "$target")" \
    -timeout=10 -print_final_stats=1 -verbosity=1 -artifact_prefix="$findings/$target-" \
    "${options[@]}" "$corpus" "${seeds[@]}" >"$log" 2>&1; then
    grep -A 8 -E "panicked at|^==[0-9]+== ERROR" "$log" >&2 || tail -n 30 "$log" >&2
    finding=$(sed -n 's/.*Test unit written to //p' "$log")
    printf '\nFailed: %s, see %s\n' "$target" "$log" >&2
    [[ -z $finding ]] || printf 'Found: %s\nRun it again: %s %s\n' "$finding" "$binary" "$finding" >&2
    return 1
  fi
  awk -v target="$target" '
    / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") coverage = $(i + 1); else if ($i == "corp:") corpus = $(i + 1) }
    /^stat::number_of_executed_units:/ { executions = $2 }
    /^stat::average_exec_per_sec:/ { rate = $2 }
    END { printf "%-16s%12d%10d%10d%14s\n", target, executions, rate, coverage, corpus }' "$log"
}

max_len() {
  case $1 in
    control_socket) echo 12000 ;;
    configuration) echo 4096 ;;
    packets) echo 1024 ;;
    *) echo 512 ;;
  esac
}

main "$@"
