#!/bin/sh
# Builds the package for a Debian: on this machine when it is the one, else in a copy of the checkout there, which needs
# root (tools/inside.sh). Prints its path.
set -eu
usage="usage: deb-for.sh CODENAME VENV [VERSION [DIRECTORY]]"
codename=${1:?$usage}
venv=${2:?$usage}
version=${3:-}
directory=${4:-dist}
if [ "$codename" = "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" ]; then
	exec tools/deb.sh "$venv" "$version" "$directory"
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH
mkdir -p "$directory"
# Nothing that is written there lasts, so the package comes by standard output.
build='tools/deb.sh .venv "$1" /tmp/built >&2 && tar -C /tmp/built -c .'
tools/inside.sh "$codename" sh -c "$build" sh "$version" | tar -C "$directory" --no-same-owner -xv --wildcards '*.deb' |
	sed "s|^\./|$directory/|" | grep .
