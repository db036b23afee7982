#!/bin/sh
# Runs a command in a copy of this checkout on another Debian: inside.sh CODENAME COMMAND...
#
# The root directory and its virtual environment are made once, in a cache outside of this tree, so `make setup` is
# already done for the command. tools/enter.sh describes its environment. Needs root.
set -eu
usage="usage: inside.sh CODENAME COMMAND..."
codename=${1:?$usage}
shift
: "${1:?$usage}"
cd "$(dirname "$0")/.."

image=$(tools/image.sh tests "$codename")
directory=$(dirname "$image")
key=$(cat pyproject.toml requirements/dev.txt tools/setup.sh tools/servers.sh | sha256sum | cut -c1-16)
venv=$directory/venv-${image##*/tests-}-$key
if [ ! -e "$venv" ]; then
	exec 9>"$venv.lock"
	flock 9 # a second process waits here, and then uses the environment of the first
fi
if [ ! -e "$venv" ]; then
	new=$(mktemp -d "$directory/new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' HUP INT TERM
	chmod 755 "$new"
	BUILD=yes tools/enter.sh "$image" "$new" make setup >&2
	test -e "$new/daemons/.packages" # `make setup` succeeds without the servers, but the tests need them
	mv "$new" "$venv"
	trap - EXIT
fi
exec 9>&- # processes that the command leaves running must not hold the lock
exec tools/enter.sh "$image" "$venv" "$@"
