#!/bin/sh
# Makes a Debian 12 to boot, once, in a cache outside of this tree; prints the path of its root directory,
# which is for reading only: whoever boots it lays a directory of his own over it. Needs root.
#
# It has neither nftables nor the C program `nftlb`, but their packages, and those they need, are in its apt's cache:
# a machine that is made from it installs them by apt without any network.
set -eu
base="systemd,systemd-sysv,dbus,udev,kmod,procps,iproute2,openssh-server,python3,python3-apt,adduser"
cached="nftables python3-nftables nftlb keepalived"

"$(dirname "$0")/packages.sh" debootstrap systemd-container openssh-client util-linux >&2

directory=${XDG_CACHE_HOME:-$HOME/.cache}/nftlb-deploy
image=$directory/$({ echo "$base $cached" && cat "$0"; } | sha256sum | cut -c1-16)
if [ ! -e "$image" ]; then
	mkdir -p "$directory"
	exec 9>"$directory/lock"
	flock 9 # whoever comes second finds it made
fi
if [ ! -e "$image" ]; then
	new=$(mktemp -d "$directory/new.XXXXXX")
	trap 'rm -rf "$new"' EXIT
	trap 'exit 1' HUP INT TERM
	mkdir "$new/root"
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | head -n 1)
	{
		debootstrap --variant=minbase --include="$base" bookworm "$new/root" "${mirror:-http://deb.debian.org/debian}"
		rm "$new/root/var/cache/apt/archives/"*.deb # they are installed
		# From outside, with this machine's way to the archive. Word splitting is meant: one word a package.
		# shellcheck disable=SC2086
		for package in $cached; do
			apt-get -y -o RootDir="$new/root" -o APT::Sandbox::User=root --no-install-recommends \
				-o Dir::Cache::pkgcache=pkgcache.bin -o Dir::Cache::srcpkgcache=srcpkgcache.bin \
				--download-only install "$package"
		done
	} >"$new/log" 2>&1 || {
		tail -n 30 "$new/log" >&2
		exit 1
	}
	# The names of this machine, which debootstrap copies, are nobody's business.
	rm -f "$new/root/etc/resolv.conf"
	echo balancer >"$new/root/etc/hostname"
	printf '127.0.0.1\tlocalhost\n127.0.1.1\tbalancer\n' >"$new/root/etc/hosts"
	: >"$new/root/etc/machine-id"
	mv "$new/root" "$image"
fi
echo "$image"
