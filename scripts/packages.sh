#!/usr/bin/env bash
# Installs Debian packages for the tests and the demo, and starts none of their services: Debian would
# start a prometheus-alertmanager of its own. While this runs, and only if this computer has no rule
# of its own, /usr/sbin/policy-rc.d forbids that.
set -euo pipefail

readonly POLICY=/usr/sbin/policy-rc.d

if [[ ! -e $POLICY ]]; then
  trap 'rm -f "$POLICY"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$POLICY"
  chmod 755 "$POLICY"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet=2
apt-get install --quiet=2 --yes --no-install-recommends "$@" >/dev/null
