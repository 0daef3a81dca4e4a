# Read by the scripts beside it: installs what they need, and makes namespaces for what they run.
# shellcheck shell=bash

# The other neighbour that hushwire must get on with. Debian has none.
readonly BORINGTUN=0.7.1

# programs PROGRAM:PACKAGE... installs the packages of the programs that are not there (as root), and
# boringtun-cli from crates.io into target/tools.
programs() {
  local missing=() pair
  for pair; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  if ((${#missing[@]})); then
    if ((EUID != 0)); then
      echo "missing; as root: apt-get install ${missing[*]}" >&2
      return 1
    fi
    echo "installing from Debian: ${missing[*]}"
    scripts/packages.sh "${missing[@]}" || return 1
  fi
  if ! command -v cargo >/dev/null; then
    echo 'cargo is missing: install Rust, https://rustup.rs' >&2
    return 1
  fi
  if [[ ! -x target/tools/bin/boringtun-cli ]]; then
    echo "installing boringtun-cli $BORINGTUN from crates.io, once; this takes a minute or two"
    cargo install boringtun-cli --version "$BORINGTUN" --locked --quiet --root target/tools || return 1
  fi
}

# in_namespaces COMMAND... runs it in a network and mount namespace of its own; without root, in a user
# namespace around that. Everything must have been built before: from there is no way to a registry.
in_namespaces() {
  local namespace=(unshare --net --mount --propagation private)
  if ((EUID != 0)); then
    echo 'not root: this runs inside a user namespace'
    namespace=(unshare --user --map-root-user --net --mount)
  fi
  if ! "${namespace[@]}" true; then
    echo 'no namespaces to be had: run as root, or allow user namespaces to everybody' >&2
    return 1
  fi
  "${namespace[@]}" sh -c 'ip link set lo up && exec "$@"' - "$@"
}
