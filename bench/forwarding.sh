#!/bin/sh
# Measures the cost of a packet in each mode, with `ipvsadm --ops` and with others: forwarding.sh IPVS_VM [OPTION...]
#
# IPVS_VM is the directory of the tools that boot a kernel with IPVS (build.sh, run.sh and bench/lab.sh).
# `forwarding.sh IPVS_VM --all-tables` measures all tables of docs/performance.md and writes the document, in about
# three quarters of an hour. `forwarding.sh --help` lists the options.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
case " $* " in
*" --report "* | *" --all-tables "*) "$here/../tools/environment.sh" "$here/../.venv-bench" requirements/bench.txt ;;
esac
PYTHONPATH=$here exec "$here/../.venv/bin/python" "$here/forwarding/measure.py" "$@"
