#!/bin/sh
# Unpacks the servers and tools of the end-to-end tests (tests/support/servers/), or other packages, into DIRECTORY:
# servers.sh DIRECTORY [PACKAGE...]. Needs no root.
#
# The packages are unpacked and not installed, because an installed server would run as a service of this machine, at
# the latest after the next boot: unbound on port 53, nginx on port 80, and chrony, which replaces systemd-timesyncd.
set -eu
directory=${1:?usage: servers.sh DIRECTORY [PACKAGE...]}
shift
packages=${*:-unbound freeradius freeradius-common chrony snmpd nginx rsyslog sip-tester keepalived libfaketime ldirectord softflowd nfdump tftpd-hpa tftp-hpa prometheus nagios4-core icinga2-bin zsh fish chromium-headless-shell fonts-inter fonts-dejavu-core}

[ "$(cat "$directory/.packages" 2>/dev/null)" != "$packages" ] || exit 0

mkdir -p "$(dirname "$directory")"
new=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$new"' EXIT
new=$(cd "$new" && pwd) # apt looks for relative paths below its own directories
mkdir -p "$new/apt/lists/partial" "$new/apt/archives/partial" "$new/root"

apt() {
	apt-get -qq -y -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Acquire::http::Timeout=30 -o Acquire::Retries=2 \
		-o Dir::State::lists="$new/apt/lists" -o Dir::Cache="$new/apt" -o Dir::Cache::archives="$new/apt/archives" "$@"
}

# With its own package lists, because a user can't update those of the machine, and containers have none.
# --reinstall: download packages that are installed too; of their dependencies only those that are missing.
# Without quotes on purpose: each word is a package.
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
