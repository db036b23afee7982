#!/bin/sh
# Compares the effect of failures and restarts on clients with keepalived: keepalived.sh IPVS_VM [REPETITIONS]
#
# IPVS_VM is the directory of the tools that boot a kernel with IPVS (build.sh and run.sh). There,
# bench/keepalived/compare.py runs keepalived with IPVS (`--ops`) and nftlb in turn, with the same timers, under the
# traffic of one client socket, and prints the table of docs/comparison.md. Four repetitions take some ten minutes.
set -eu
kit=${1:?usage: keepalived.sh IPVS_VM [REPETITIONS]}
repetitions=${2:-4}
here=$(cd "$(dirname "$0")" && pwd)
packages=$("$here/../.venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
"$kit/build.sh" >&2
# The machine can't write compiled modules. An installed nftlb has them, so they are compiled here.
"$here/../.venv/bin/python" -m compileall -q "$here/../nftlb"
exec "$kit/run.sh" -t $((60 + 180 * repetitions)) -f "$kit/bench" -f "$here/keepalived" -f "$here/../nftlb" -f "$packages" \
	"$here/keepalived/in-vm.sh" "$repetitions"
