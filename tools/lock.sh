#!/bin/sh
# Writes the files that name every package with the hashes of all its files, from pyproject.toml and the versions in
# constraints.txt: `make lock`, after either was changed. What constraints.txt does not name is taken as new as it is.
#
# They hold for every architecture and every Python that nftlb runs on.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	-r requirements/lock.txt >&2

lock() { # FILE CONSTRAINTS, and what it is to hold: lines on standard input
	cat >"$work/asked.in"
	{
		echo "# Written by tools/lock.sh: what pip installs from here is what was there when the file was written."
		"$work/venv/bin/uv" pip compile -q --universal --python-version 3.11 --only-binary :all: --generate-hashes \
			--no-header --no-annotate --no-emit-index-url --no-emit-find-links --constraint "$2" "$work/asked.in"
	} >"$work/written"
	cp "$work/written" "$1"
}

# What pyproject.toml says, by the parser that every Python has.
asked() {
	/usr/bin/python3 - "$@" <<'PYTHON'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    said = tomllib.load(file)
parts = {
    "run": said["project"]["dependencies"],
    "dev": said["project"]["optional-dependencies"]["dev"],
    # hatchling asks for editables when it makes an editable installation.
    "build": [*said["build-system"]["requires"], "editables"],
}
print(*(line for part in sys.argv[1:] for line in parts[part]), sep="\n")
PYTHON
}

asked run | lock requirements/run.txt constraints.txt
asked run dev build | lock requirements/dev.txt constraints.txt
echo uv | lock requirements/lock.txt constraints.txt
printf 'ansible-core\nansible-lint\n' | lock deploy/ansible/requirements.txt deploy/ansible/constraints.txt
echo ansible-core | lock deploy/ansible/requirements-bookworm.txt deploy/ansible/constraints-bookworm.txt
