#!/bin/sh
# Runs a command in a copy of this checkout on another Debian, as root: enter.sh IMAGE VENV COMMAND...
#
# IMAGE is a root directory made by tools/image.sh, VENV the directory that is mounted there as .venv. All files that
# the command writes are kept in memory; the checkout, the image and VENV do not change. With BUILD=yes in the
# environment the command writes to VENV. When the command ends, in whatever way, its processes, mounts and files are
# removed, because they belong to its own namespaces. It uses the network of this machine.
set -eu

if [ "${1:-}" != --inside ]; then
	# In the background: in the foreground this shell would handle a signal only after the command. `unshare` ignores
	# signals. The shell gives a process in the background no standard input, so it gets a copy.
	exec 3<&0
	env --default-signal=INT,QUIT setpriv --pdeathsig KILL \
		unshare --mount --pid --ipc --fork --kill-child "$0" --inside "$@" <&3 3<&- &
	trap 'kill -KILL $!' HUP TERM
	trap : INT # from a terminal, which sends it to the command too
	while wait $! && status=0 || status=$? && kill -0 $! 2>/dev/null; do :; done
	exit "$status"
fi
image=$2
venv=$3
shift 3
checkout=$PWD

# The settings with which pip and apt reach their servers on this machine: proxies, certificates, other indexes.
passed=$(env | sed -n -E 's/^(PIP_[A-Z_]+|[A-Za-z]+_proxy|[A-Z]+_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|TERM|PYTEST_ADDOPTS|SOURCE_DATE_EPOCH)=.*/\1/p')
home=${HOME:-/root}
config=${XDG_CONFIG_HOME:-$home/.config}

cd "$image/.." # `scratch` beside the images is the mount point of the file system in memory
scratch=$(dirname "$image")/scratch
mkdir -p "$scratch"
mount -t tmpfs -o mode=755 scratch "$scratch"
cd "$scratch"
mkdir root upper work venv-upper venv-work
mount -t overlay -o "lowerdir=$image,upperdir=upper,workdir=work" root root
cd root
place=usr/src/nftlb
mkdir -p $place/.venv

mount -t proc proc proc
mount -t sysfs sysfs sys
mount --bind /dev dev
mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp

for file in /etc/resolv.conf /etc/hosts /etc/hostname; do
	[ ! -e "$file" ] || cat "$file" >".$file"
done
mkdir -p root/.pip root/.config/pip
[ ! -e /etc/pip.conf ] || cat /etc/pip.conf >etc/pip.conf
[ ! -e "$home/.pip/pip.conf" ] || cat "$home/.pip/pip.conf" >root/.pip/pip.conf
[ ! -e "$config/pip/pip.conf" ] || cat "$config/pip/pip.conf" >root/.config/pip/pip.conf
show() { # mounts a path of this machine at the same path, read-only
	if [ -d "$1" ]; then
		mkdir -p ".$1"
	else
		mkdir -p ".$(dirname "$1")" && : >".$1"
	fi
	mount --bind -o ro "$1" ".$1"
}
for path in /etc/ssl/certs "/lib/modules/$(uname -r)"; do
	[ ! -e "$path" ] || show "$path"
done
# Paths in these settings too. An index in a directory may lead to other directories, so the highest parent directory
# that is empty in the image is mounted.
for name in $passed; do
	printenv "$name"
done | cat - $(find etc/pip.conf root/.pip root/.config/pip -type f) | tr -s ' =' '\n' | sed -n 's|^\(file://\)*/|/|p' |
	while read -r path; do
		[ -e "$path" ] && [ ! -e ".$path" ] || continue
		while parent=$(dirname "$path") && [ -z "$(ls -A ".$parent" 2>/dev/null)" ]; do
			path=$parent
		done
		show "$path"
	done

tar -C "$checkout" --exclude=./.git --exclude='./.venv*' --exclude=./build --exclude=./dist --exclude='__pycache__' \
	--exclude='./.*_cache' --exclude=./.hypothesis -c . | tar --no-same-owner -C $place -x
if [ "${BUILD:-}" = yes ]; then
	mount --bind "$venv" $place/.venv
else
	mount -t overlay -o "lowerdir=$venv,upperdir=../venv-upper,workdir=../venv-work" venv $place/.venv
fi

for name in $passed; do
	set -- "$name=$(printenv "$name")" "$@"
done
# pivot_root instead of chroot: the kernel allows no user namespaces inside a chroot.
pivot_root . mnt
umount -l mnt
cd /$place
[ ! -e .venv/.ready ] || touch .venv/.ready # older than the files of a new clone
env -i HOME=/root USER=root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
