#!/bin/sh
# Builds the package for a Debian release and prints its path. If this machine runs another release, it builds in a copy
# of the checkout in that release (tools/inside.sh), which needs root.
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
# Files that are written there are lost, so the package is passed through standard output.
build='tools/deb.sh .venv "$1" /tmp/built >&2 && tar -C /tmp/built -c .'
tools/inside.sh "$codename" sh -c "$build" sh "$version" | tar -C "$directory" --no-same-owner -xv --wildcards '*.deb' |
	sed "s|^\./|$directory/|" | grep .
