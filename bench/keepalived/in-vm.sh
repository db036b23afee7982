#!/bin/bash
# The part of keepalived.sh that runs inside the machine: in-vm.sh REPETITIONS
set -eu
# The kit's lab: namespaces client, lb, backend1, backend2 and backend3, with the addresses of its README.
# shellcheck source=/dev/null
. bench/lab.sh
lab_up
exec python3 keepalived/compare.py "$1"
