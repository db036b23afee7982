#!/bin/sh
# `make lock`: writes the requirements with every package and the hashes of its files, from pyproject.toml and the
# versions in constraints.txt. Run it after a change of either. Packages not in constraints.txt get their newest
# version.
#
# The requirements are valid for every architecture and every Python that nftlb supports.
set -eu
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
/usr/bin/python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
	-r requirements/lock.txt >&2

lock() { # lock FILE CONSTRAINTS: writes FILE for the requirements on standard input, one a line
	cat >"$work/wanted.in"
	{
		echo "# Written by tools/lock.sh: what pip installs from here is what was there when the file was written."
		"$work/venv/bin/uv" pip compile -q --universal --python-version 3.11 --only-binary :all: --generate-hashes \
			--no-header --no-annotate --no-emit-index-url --no-emit-find-links --constraint "$2" "$work/wanted.in"
	} >"$work/written"
	cp "$work/written" "$1"
}

# Prints dependencies from pyproject.toml, read by the parser of the standard library.
wanted() {
	/usr/bin/python3 - "$@" <<'PYTHON'
import sys, tomllib

with open("pyproject.toml", "rb") as file:
    project_file = tomllib.load(file)
parts = {
    "run": project_file["project"]["dependencies"],
    "dev": project_file["project"]["optional-dependencies"]["dev"],
    # hatchling needs editables for an editable installation.
    "build": [*project_file["build-system"]["requires"], "editables"],
}
print(*(line for part in sys.argv[1:] for line in parts[part]), sep="\n")
PYTHON
}

wanted run | lock requirements/run.txt constraints.txt
wanted run dev build | lock requirements/dev.txt constraints.txt
echo uv | lock requirements/lock.txt constraints.txt
printf 'furo\nmyst-parser\nsphinx<9.1\ndocutils<0.23\nsoupsieve<3\n' | lock requirements/docs.txt constraints.txt
printf 'matplotlib\ncontourpy<1.4\nnumpy<2.5\n' | lock requirements/bench.txt constraints.txt
printf 'ansible-core\nansible-lint\n' | lock deploy/ansible/requirements.txt deploy/ansible/constraints.txt
echo ansible-core | lock deploy/ansible/requirements-bookworm.txt deploy/ansible/constraints-bookworm.txt
