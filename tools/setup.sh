#!/bin/sh
# Installs what the project needs: Debian's packages where they are missing, then a virtual environment.
#
# The environment is made from the distribution's own python3 with its site packages visible, because the
# nftables binding is part of the distribution: it must match the libnftables it loads.
set -eu
venv=${1:?usage: setup.sh VENV, or setup.sh --packages}
packages="systemd python3-venv python3-nftables nftables conntrack iproute2 ethtool openssl gcc libc6-dev"
if [ "$venv" = --packages ]; then
	echo "$packages"
	exit
fi
# Word splitting is meant: one word a package.
# shellcheck disable=SC2086
tools/packages.sh $packages

[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$venv"
# Nothing but files with the hashes that were written down (tools/lock.sh); what builds nftlb itself is among them.
"$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	-r requirements/dev.txt
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import nftables; nftables.Nftables()'
# Where PYTHONDONTWRITEBYTECODE is set, or others own the files, every start would compile all of them: 40 ms.
"$venv/bin/python" -m compileall -q nftlb

# Only some tests need them, and those say so when they are missing.
tools/servers.sh "$venv/daemons" ||
	echo "setup: can't fetch the servers for the end-to-end tests; try again: tools/servers.sh $venv/daemons" >&2
