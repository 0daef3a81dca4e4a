#!/usr/bin/env bash
# Builds hushwire as one static program, and an image of it from nothing else.
#
# The program goes to target/image/hushwire, beside its Dockerfile: a build context of one file. Nothing is
# downloaded but crates that are missing; names are resolved by glibc's own files and DNS (2.34 and later),
# without any shared library. Its relocations are packed (RELR) where glibc can unpack them. The index of
# the tables for unwinding is left out: nothing unwinds, and a panic tells its file and line.
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
  # The program relocates itself by the code of the glibc that it is built with. From 2.36 on that reads packed
  # relocations; with an older one they would stay as they are, and the program would crash.
  local flags='-C target-feature=+crt-static -C link-arg=-Wl,--no-eh-frame-hdr'
  if printf '%s\n' 'glibc 2.36' "$(getconf GNU_LIBC_VERSION)" | sort --version-sort --check=quiet; then
    flags+=' -C link-arg=-Wl,-z,pack-relative-relocs'
  fi
  # With --target the flags are for the program alone: what runs during the build needs its libraries.
  RUSTFLAGS="${RUSTFLAGS-} $flags" \
    cargo build --release --locked --quiet --target "$triple" --target-dir target/static
  mkdir -p target/image
  cp "target/static/$triple/release/hushwire" config/docker/Dockerfile target/image/
  echo "target/image/hushwire: $(stat --format %s target/image/hushwire) bytes"
  if [[ -n $name ]]; then
    "$engine" build --quiet --tag "$name" target/image
  fi
}

main "$@"
