#!/bin/sh
# Installs the plotting library of bench/forwarding.sh into a separate virtual environment: plotting.sh DIRECTORY
set -eu
directory=${1:?usage: plotting.sh DIRECTORY}
cd "$(dirname "$0")/.."
[ -x "$directory/bin/python" ] || /usr/bin/python3 -m venv "$directory"
"$directory/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	-r requirements/bench.txt >&2
