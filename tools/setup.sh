#!/bin/sh
# Installs what the project needs: Debian's packages where they are missing, then a virtual environment.
#
# The environment is made from the distribution's own python3 with its site packages visible, because the
# nftables binding is part of the distribution: it must match the libnftables it loads.
set -eu
venv=${1:?usage: setup.sh VENV}
packages="systemd python3-venv python3-nftables nftables iproute2 ethtool openssl gcc libc6-dev"

missing=
for package in $packages; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" -ne 0 ]; then
		echo "setup: these Debian packages are missing; install them as root and try again:" >&2
		echo "    apt-get install$missing" >&2
		exit 3
	fi
	export DEBIAN_FRONTEND=noninteractive
	# Word splitting is meant: one word a package.
	# shellcheck disable=SC2086
	{
		apt-get -qq update
		apt-get -qq install -y --no-install-recommends $missing
	} >&2
fi

[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$venv"
"$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
"$venv/bin/python" -c 'import nftables; nftables.Nftables()'

# Only some tests need them, and those say so when they are missing.
tools/servers.sh "$venv/daemons" ||
	echo "setup: can't fetch the servers for the end-to-end tests; try again: tools/servers.sh $venv/daemons" >&2
