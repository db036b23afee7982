#!/bin/sh
# Loads the rules that `nftlb run` or `nftlb prepare` wrote for a start that finds none of them in the kernel:
#
#     nftlb-preload FILE [STATE_DIR]
#
# FILE is the configuration, STATE_DIR its `state_dir` (default /var/lib/nftlb). Runs before `nftlb run FILE` and
# `nftlb restore FILE`, and ends before Python starts. The rules are loaded only if all files that they depend on have
# the same bytes. Otherwise a line on standard error has the reason, and the start takes longer. The exit status is 0 in
# both cases.

prefix='# nftlb, prepared rules of '
newline='
'
folder=/run/nftlb

finish() {
	printf 'nftlb-preload: %s\n' "$1" >&2
	exit 0
}

# first_line TEXT: sets line
first_line() {
	line=${1%%"$newline"*}
}

# Only root and this user may have the permission to write the rules. In a directory with the sticky bit, other users
# can't replace the files of this user.
only_ours() {
	found=$(stat -L -c %u:%a "$directory" "$sums" "$rules" 2>&1) || finish "can't look at $sums: $found"
	for path in "$directory" "$sums" "$rules"; do
		first_line "$found"
		found=${found#*"$newline"}
		case $line in
		0:*) ;;
		*) [ -O "$path" ] || finish "$sums is not used: $path belongs to user ${line%%:*}; needed: root or this user" ;;
		esac
		case $path,${line#*:} in
		"$directory",[1357]???) ;;
		*[2367] | *[2367]?) finish "$sums is not used: others can write $path (mode ${line#*:}): chmod go-w $path" ;;
		esac
	done
}

# Whether the kernel has no other table of nftlb. Each nftlb that writes a table leaves a file in the folder of locks.
# A boot deletes these files, as it deletes tables.
alone() {
	{ true >>"$folder/$table.used"; } 2>/dev/null
	[ -O "$folder" ] || return 1
	for one in "$folder"/*.used; do
		[ "$one" = "$folder/$table.used" ] || return 1
	done
}

# A second table of nftlb may use the same conntrack zones. A listing of chains takes as long as a load.
nothing_there() {
	if ! found=$(nft list chains 2>&1); then
		first_line "$found"
		finish "nft can't list what is in the kernel: $line"
	fi
	for family in ip ip6 inet arp bridge netdev; do
		case $found in
		*"table $family $table {"*) finish "the kernel has a table $family $table already" ;;
		esac
	done
	case $found in
	*"chain made-by-nftlb {"*) finish "the kernel has a table of another nftlb" ;;
	esac
}

if [ $# -lt 1 ] || [ $# -gt 2 ]; then
	echo "usage: nftlb-preload FILE [STATE_DIR]" >&2
	exit 2
fi
file=$1 directory=${2:-/var/lib/nftlb}
case $file in
/*) ;;
*) file=$PWD/$file ;;
esac
PATH=${PATH:-/usr/bin:/bin}:/usr/sbin:/sbin LC_ALL=C
export PATH LC_ALL

sums=
for one in "$directory"/*.prepared; do
	# A FIFO would be waited for.
	if [ -f "$one" ] && [ ! -L "$one" ] && IFS= read -r line <"$one" && [ "$line" = "$prefix$file" ]; then
		[ -z "$sums" ] || finish "both $sums and $one are for $file"
		sums=$one
	fi
done
[ -n "$sums" ] || finish "nothing is prepared for $file in $directory"
rules=$sums.nft
table=${sums##*/}
table=${table%.prepared}
[ -f "$file" ] || finish "$file is not a regular file"
[ -f "$rules" ] && [ ! -L "$rules" ] || finish "$rules is not a regular file"
only_ours
if ! found=$(sha256sum --check --strict --quiet "$sums" 2>&1); then
	first_line "$found"
	finish "something is not as it was when $rules was written: $line"
fi
alone || nothing_there
if ! found=$(nft -f "$rules" 2>&1); then
	case $found in
	*"File exists"*) finish "the kernel has a table $table already" ;;
	esac
	first_line "$found"
	finish "the kernel refused $rules: $line"
fi
finish "loaded $rules"
