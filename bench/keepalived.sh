#!/bin/sh
# What clients notice of failures and restarts, beside keepalived: bench/keepalived.sh IPVS_VM [REPETITIONS]
#
# IPVS_VM is the kit that boots a kernel with IPVS (its build.sh and run.sh). In that machine, bench/keepalived/compare.py
# runs keepalived with IPVS (`--ops`) and nftlb in turn, with the same timers, under the traffic of one client socket, and
# prints the table of docs/comparison.md. Four repetitions take some ten minutes.
set -eu
kit=${1:?usage: keepalived.sh IPVS_VM [REPETITIONS]}
repetitions=${2:-4}
here=$(cd "$(dirname "$0")" && pwd)
packages=$("$here/../.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
"$kit/build.sh" >&2
# The machine can't write the compiled form of modules: an installed nftlb has it, so this one gets it here.
"$here/../.venv/bin/python" -m compileall -q "$here/../nftlb"
exec "$kit/run.sh" -t $((60 + 180 * repetitions)) -f "$kit/bench" -f "$here/keepalived" -f "$here/../nftlb" -f "$packages" \
	"$here/keepalived/in-vm.sh" "$repetitions"
