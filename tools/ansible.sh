#!/bin/sh
# Installs what the Ansible roles are linted and tested with, each in a virtual environment of its own: current/ and
# bookworm/ of a directory. Nothing of nftlb is in them: a controller needs none.
set -eu
directory=${1:?usage: ansible.sh DIRECTORY}

install() {
	name=$1 requirements=$2
	[ -x "$directory/$name/bin/python" ] || /usr/bin/python3 -m venv "$directory/$name"
	"$directory/$name/bin/python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: \
		-r "deploy/ansible/$requirements" >&2
}

install current requirements.txt
install bookworm requirements-bookworm.txt
