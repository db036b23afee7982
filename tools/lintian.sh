#!/bin/sh
# Checks a package with the lintian of its Debian release: lintian.sh CODENAME PACKAGE. An error or a warning is printed,
# and gives exit status 2. deploy/debian/lintian-overrides has the reasons for what is allowed. Needs root if lintian has
# to be installed, or for another release than that of this machine.
set -eu
usage="usage: lintian.sh CODENAME PACKAGE"
codename=${1:?$usage}
package=$(realpath "${2:?$usage}")
cd "$(dirname "$0")/.."

if [ "$codename" = "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" ]; then
	tools/packages.sh lintian
	exec lintian --allow-root --fail-on error,warning "$package"
fi
# The package comes through standard input. The copy of the release has no lintian, and is deleted at the end.
# shellcheck disable=SC2016 # the inner shell expands $1
check='cat >"/tmp/$1" && tools/packages.sh lintian && lintian --allow-root --fail-on error,warning "/tmp/$1"'
tools/inside.sh "$codename" sh -c "$check" sh "$(basename "$package")" <"$package"
