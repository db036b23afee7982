#!/bin/sh
# Unpacks the servers and tools that the end-to-end tests run (tests/daemons/) into a directory. Needs no root.
#
# Unpacked and not installed: an installed one would be a service of this machine from then on, at the next boot at the
# latest: unbound on port 53, nginx on 80, and chrony in the place of systemd-timesyncd, with which it conflicts.
set -eu
directory=${1:?usage: servers.sh DIRECTORY}
packages="unbound freeradius freeradius-common chrony snmpd nginx rsyslog sip-tester keepalived libfaketime ldirectord"

[ "$(cat "$directory/.packages" 2>/dev/null)" != "$packages" ] || exit 0

mkdir -p "$(dirname "$directory")"
new=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$new"' EXIT
new=$(cd "$new" && pwd) # apt takes a relative path for one below its own directories
mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/root"

apt() {
	apt-get -qq -y -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Acquire::http::Timeout=30 -o Acquire::Retries=2 \
		-o Dir::State::lists="$new/apt/lists" -o Dir::Cache="$new/apt" -o Dir::Cache::archives="$new/apt/archives" "$@"
}

# With lists of our own, because a user can't bring those of the machine up to date, and in a container there are none.
# --reinstall: take what the machine has too, but of their libraries only those that it lacks.
# Word splitting is meant: one word a package.
# shellcheck disable=SC2086
{
	apt update
	apt install --no-install-recommends --reinstall --download-only $packages
} >&2
for package in "$new"/apt/archives/*.deb; do
	dpkg -x "$package" "$new/root"
done
echo "$packages" >"$new/root/.packages"
chmod 755 "$new/root"
rm -rf "$directory"
mv "$new/root" "$directory"
