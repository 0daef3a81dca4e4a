#!/usr/bin/env bash
# Puts hushwire, its units, manual pages and completions in place, or takes them away again. What a person
# wrote, /etc/hushwire, is neither made nor touched.
#
# For Debian there is a package instead: scripts/package.sh.
set -euo pipefail

readonly USAGE='usage: [DESTDIR=DIR] [PREFIX=/usr/local] [BINARY=target/release/hushwire] scripts/install.sh [--remove]
  --remove  stops hushwire and takes away what this has put in place
  DESTDIR   a tree to install into, for packagers; no service is touched then
Relative paths count from the current directory; without BINARY, it is the one that was built here.'

# File, where it goes below PREFIX, mode. Cargo.toml has the same for the package; tests/manual.rs compares.
readonly FILES='
  BINARY                              bin/hushwire                                    755
  config/hushwire.service             lib/systemd/system/hushwire.service             644
  config/hushwire@.service            lib/systemd/system/hushwire@.service            644
  config/man/hushwire.8               share/man/man8/hushwire.8                       644
  config/man/hushwire.toml.5          share/man/man5/hushwire.toml.5                  644
  config/completions/hushwire.bash    share/bash-completion/completions/hushwire      644
  config/completions/_hushwire        share/zsh/vendor-completions/_hushwire          644
  config/completions/hushwire.fish    share/fish/vendor_completions.d/hushwire.fish   644
  config/hushwire.toml                share/doc/hushwire/examples/hushwire.toml       644
  config/hushwire.service.d/container.conf    share/doc/hushwire/examples/hushwire.service.d/container.conf    644
  config/hushwire.service.d/docker-plugin.conf  share/doc/hushwire/examples/hushwire.service.d/docker-plugin.conf  644
  config/alertmanager.service.d/overlay.conf  share/doc/hushwire/examples/alertmanager.service.d/overlay.conf  644
  config/alertmanager-netns.service   share/doc/hushwire/examples/alertmanager-netns.service   644'

main() {
  local what=put
  case "$# ${1-}" in
    '0 ') ;;
    '1 --remove') what=take_away ;;
    '1 --help' | '1 -h')
      echo "$USAGE"
      exit
      ;;
    *)
      echo "$USAGE" >&2
      exit 2
      ;;
  esac
  root=$(absolute "${DESTDIR-}")
  prefix=$(absolute "${PREFIX:-/usr/local}")
  place=$root$prefix
  binary=$(absolute "${BINARY-}")
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  binary=${binary:-target/release/hushwire}
  # Everybody may run it, and the unit's user is not root.
  umask 022
  "$what"
}

# What is empty stays so.
absolute() {
  case "$1" in
    '' | /*) echo "$1" ;;
    *) echo "$PWD/$1" ;;
  esac
}

put() {
  if [[ ! -x $binary ]]; then
    echo "$binary is not there: cargo build --release --locked" >&2
    exit 1
  fi
  local file to mode
  while read -r file to mode; do
    [[ -n $file ]] || continue
    [[ $file != BINARY ]] || file=$binary
    install -D -m "$mode" "$file" "$place/$to"
  done <<<"$FILES"
  # zsh looks there for what is not of the distribution.
  if [[ $prefix != /usr ]]; then
    mkdir -p "$place/share/zsh/site-functions"
    mv "$place/share/zsh/vendor-completions/_hushwire" "$place/share/zsh/site-functions/"
    rmdir "$place/share/zsh/vendor-completions" 2>/dev/null || true
  fi
  sed -i "s#/usr/bin/hushwire#$prefix/bin/hushwire#" "$place"/lib/systemd/system/hushwire{,@}.service
  systemd_runs && systemctl daemon-reload
  echo "installed below $place; next: hushwire init --help, systemctl enable --now hushwire"
}

take_away() {
  if systemd_runs; then
    systemctl disable --now --quiet hushwire.service 2>/dev/null || true
    systemctl stop 'hushwire@*.service' 2>/dev/null || true
  fi
  # No pattern disables the instances.
  rm -f "$root"/etc/systemd/system/*.wants/hushwire{,@*}.service
  local file to mode
  while read -r file to mode; do
    [[ -n $file ]] || continue
    rm -f "$place/$to"
  done <<<"$FILES"
  rm -f "$place/share/zsh/site-functions/_hushwire"
  # A prefix of our own goes as well. Others may count on the directories of a shared one, also on empty ones.
  if [[ ${place##*/} == hushwire && -d $place ]]; then
    # shellcheck disable=SC2046 # the directories are words
    (cd "$place" && rmdir -p $(directories)) 2>/dev/null || true
    rmdir "$place" 2>/dev/null || true
  fi
  local directory=$place/share/doc/hushwire
  rmdir "$directory"/examples/{hushwire,alertmanager}.service.d "$directory"/{examples,} 2>/dev/null || true
  if systemd_runs; then
    systemctl daemon-reload
    systemctl reset-failed hushwire.service 'hushwire@*.service' 2>/dev/null || true
  fi
  echo "removed from $place; /etc/hushwire stays"
}

# Those of the files, below PREFIX.
directories() {
  local file to mode
  while read -r file to mode; do
    [[ -z $file ]] || echo "${to%/*}"
  done <<<"$FILES"
  echo share/zsh/site-functions
}

systemd_runs() {
  [[ -z $root && -d /run/systemd/system ]]
}

main "$@"
