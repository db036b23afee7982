#!/bin/sh
# What a packet costs in each mode, beside `ipvsadm --ops`, in one run: bench/forwarding.sh IPVS_VM [OPTION...]
#
# IPVS_VM is the kit that boots a kernel with IPVS and measures rulesets in it (its bench/forwarding.sh); options are
# passed on to that. The files in bench/forwarding/ are for its network.
set -eu
kit=${1:?usage: forwarding.sh IPVS_VM [OPTION...]}
shift
here=$(dirname "$0")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=
for file in "$here"/forwarding/*.yaml; do
	ruleset="$work/$(basename "$file" .yaml).nft"
	"$here/../.venv/bin/nftlb" compile "$file" -o "$ruleset"
	cases="$cases ruleset:$ruleset"
done
# Word splitting is meant: one word a case.
# shellcheck disable=SC2086
"$kit/bench/forwarding.sh" "$@" routing ipvs-ops $cases
