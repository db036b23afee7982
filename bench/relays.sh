#!/bin/sh
# Compares nftlb with relays in user space (nginx stream, dnsdist, socat) on this host's kernel: relays.sh [OPTION...]
#
# The packages are unpacked into .venv-bench/, not installed. `relays.sh --help` lists the options.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
programs=$here/../.venv-bench/relays
"$here/../tools/servers.sh" "$programs" nginx libnginx-mod-stream dnsdist socat
PYTHONPATH=$here exec "$here/../.venv/bin/python" "$here/host/relays.py" "$programs" "$@"
