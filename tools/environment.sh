#!/bin/sh
# Makes a virtual environment for a tool that neither the product nor the tests need: environment.sh DIRECTORY FILE.
# FILE is one of requirements/.
set -eu
directory=${1:?usage: environment.sh DIRECTORY FILE}
file=${2:?usage: environment.sh DIRECTORY FILE}
cd "$(dirname "$0")/.."
[ -x "$directory/bin/python" ] || /usr/bin/python3 -m venv "$directory"
"$directory/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	-r "$file" >&2
