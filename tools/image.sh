#!/bin/sh
# Makes the root directory of a Debian, once, in a cache outside of this tree, and prints its path. It is only read:
# programs that boot or enter it mount an overlay. Needs root.
#
#   image.sh machine CODENAME   to boot (tests/deploy/). It has neither nftables nor the C program `nftlb`, but apt's cache
#                               has their packages with all dependencies: a machine made from the image installs them
#                               without a network.
#   image.sh tests CODENAME     to run the tests in (tools/inside.sh), with the packages that `make setup` asks for.
set -eu
usage="usage: image.sh machine|tests CODENAME"
kind=${1:?$usage}
codename=${2:?$usage}
case $kind in
machine)
	base="systemd systemd-sysv dbus udev kmod procps iproute2 openssh-server python3 python3-apt adduser"
	cached="nftables python3-nftables nftlb keepalived"
	;;
tests)
	base="make git ca-certificates kmod procps $("$(dirname "$0")/setup.sh" --packages)"
	cached=
	;;
*)
	echo "$usage" >&2
	exit 2
	;;
esac
# sid changes all the time: its image is made again each month.
[ "$codename" != sid ] || moment=$(date +%Y-%m)

"$(dirname "$0")/packages.sh" debootstrap systemd-container openssh-client util-linux >&2

directory=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/nftlb-images
name=$kind-$codename-$({ echo "$base $cached ${moment:-}" && cat "$0"; } | sha256sum | cut -c1-16)
image=$directory/$name
mkdir -p "$directory"
if [ ! -e "$image" ]; then
	exec 9>"$directory/$name.lock"
	flock 9 # a second process waits here, and then uses the image of the first
fi
if [ ! -e "$image" ]; then
	new=$(mktemp -d "$directory/new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' HUP INT TERM
	umask 022
	# dpkg writes thousands of files and would sync each. After a crash of this host the image is made again.
	mkdir -p "$new/root/etc/dpkg/dpkg.cfg.d" "$new/root/etc/apt/apt.conf.d"
	echo force-unsafe-io >"$new/root/etc/dpkg/dpkg.cfg.d/unsafe-io"
	# The lists of unstable are valid for a week, and some mirrors are older.
	[ "$codename" != sid ] || echo 'Acquire::Check-Valid-Until "false";' >"$new/root/etc/apt/apt.conf.d/lagging"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
	{
		debootstrap --variant=minbase --include="$(echo "$base" | tr ' ' ,)" "$codename" "$new/root" \
			"${mirror:-http://deb.debian.org/debian}"
		rm "$new/root/var/cache/apt/archives/"*.deb # they are installed
		# With this machine's apt, which has its settings for the archive.
		for package in $cached; do
			apt-get -y -o Dir::Etc="$new/root/etc/apt" -o Dir::State="$new/root/var/lib/apt" \
				-o Dir::State::status="$new/root/var/lib/dpkg/status" -o Dir::Cache="$new/root/var/cache/apt" \
				-o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin \
				-o APT::Sandbox::User=root --no-install-recommends --download-only install "$package"
		done
	} >"$new/log" 2>&1 || {
		tail -n 30 "$new/log" >&2
		exit 1
	}
	# debootstrap copies these files of this machine, whose names must not be in an image.
	rm -f "$new/root/etc/resolv.conf"
	echo balancer >"$new/root/etc/hostname"
	printf '127.0.0.1\tlocalhost\n127.0.1.1\tbalancer\n' >"$new/root/etc/hosts"
	: >"$new/root/etc/machine-id"
	mv "$new/root" "$image"
fi
echo "$image"
