#!/bin/sh
# Installs those of these Debian packages that are missing; says what to do when it can't, for want of root.
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
# Word splitting is meant: one word a package.
# shellcheck disable=SC2086
{
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends $missing
} >&2
