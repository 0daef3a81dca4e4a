#!/usr/bin/env bash
# Makes the Debian package and prints where it is. Wants dpkg-dev; installs cargo-deb from crates.io into
# target/tools, once.
set -euo pipefail

readonly USAGE='usage: scripts/package.sh [--deb-version VERSION] [--output FILE] [further options of cargo deb]...'
readonly CARGO_DEB=3.8.0

[[ ${1-} != --help && ${1-} != -h ]] || { echo "$USAGE"; exit; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
if [[ ! -x target/tools/bin/cargo-deb ]]; then
  echo "installing cargo-deb $CARGO_DEB from crates.io, once; this takes a minute" >&2
  cargo install cargo-deb --version "$CARGO_DEB" --locked --quiet --root target/tools --no-default-features
fi
cargo build --release --locked --quiet
# The profile has stripped it; what it needs of the C library is looked up in it (dpkg-shlibdeps).
target/tools/bin/cargo-deb --no-build --no-strip --locked --quiet "$@"
