#!/usr/bin/env bash
# Builds hushwire as one static program, and an image of it from nothing else.
#
# The program goes to target/image/hushwire, beside its Dockerfile: a build context of one file. Nothing is
# downloaded but crates that are missing; names are resolved by glibc's own files and DNS (2.34 and later),
# without any shared library.
set -euo pipefail

readonly USAGE='usage: scripts/image.sh [--engine docker|podman] [NAME[:TAG]]
  builds the program and, with NAME, an image by the engine (default: docker)'

main() {
  local engine=docker name=
  while (($#)); do
    case $1 in
      --help | -h) echo "$USAGE" && exit ;;
      --engine) engine=${2:?"$USAGE"} && shift ;;
      -*) echo "$USAGE" >&2 && exit 2 ;;
      *) name=$1 ;;
    esac
    shift
  done
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

  local triple
  triple=$(rustc -vV | sed -n 's/^host: //p')
  # With --target the flag is for the program alone: what runs during the build needs its libraries.
  RUSTFLAGS="${RUSTFLAGS-} -C target-feature=+crt-static" \
    cargo build --release --locked --quiet --target "$triple" --target-dir target/static
  mkdir -p target/image
  cp "target/static/$triple/release/hushwire" config/docker/Dockerfile target/image/
  echo "target/image/hushwire: $(stat --format %s target/image/hushwire) bytes"
  if [[ -n $name ]]; then
    "$engine" build --quiet --tag "$name" target/image
  fi
}

main "$@"
