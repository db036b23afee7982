#!/bin/sh
# Installs the missing Debian packages of its arguments. Without root it prints the command to install them.
set -eu

missing=
for package; do
	dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "setup: these Debian packages are missing; install them as root and try again:" >&2
	echo "    apt-get install$missing" >&2
	exit 3
fi
export DEBIAN_FRONTEND=noninteractive
# Without quotes on purpose: each word is a package.
# shellcheck disable=SC2086
{
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends $missing
} >&2
