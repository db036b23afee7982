#!/bin/sh
# Installs the versions of Ansible for the linter and the tests of the roles into two virtual environments, current/ and
# bookworm/ in DIRECTORY. They do not contain nftlb: an Ansible controller does not need it.
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
