#!/bin/sh
# Measures what two processors share when they forward for one pool, on this host's kernel: cores.sh [OPTION...]
#
# Needs two processors, gcc and nft. Nothing else should run meanwhile. `cores.sh --help` lists the options.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH=$here exec "$here/../.venv/bin/python" "$here/host/cores.py" "$@"
