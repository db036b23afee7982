#!/bin/sh
# Installs what the project needs: missing Debian packages, then a virtual environment.
#
# The environment uses the distribution's python3 and its site packages, because the nftables binding is a package of
# the distribution: it must match the libnftables that it loads.
set -eu
venv=${1:?usage: setup.sh VENV, or setup.sh --packages}
packages="systemd python3-venv python3-nftables nftables conntrack iproute2 ethtool openssl gcc libc6-dev"
if [ "$venv" = --packages ]; then
	echo "$packages"
	exit
fi
# Without quotes on purpose: each word is a package.
# shellcheck disable=SC2086
tools/packages.sh $packages

[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$venv"
# Only files with the hashes in requirements/ (tools/lock.sh); the packages that build nftlb itself are among them.
"$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	-r requirements/dev.txt
"$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
"$venv/bin/python" -c 'import nftables; nftables.Nftables()'
# If PYTHONDONTWRITEBYTECODE is set, or another user owns the files, every start would compile them all: 40 ms.
"$venv/bin/python" -m compileall -q nftlb

# Only some tests need the servers, and fail with a message if they are missing.
tools/servers.sh "$venv/daemons" ||
	echo "setup: can't fetch the servers for the end-to-end tests; try again: tools/servers.sh $venv/daemons" >&2
