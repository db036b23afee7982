#!/usr/bin/env python3
"""The part of measure.py that runs inside the machine, with the machine's Python and nftables.

usage: in_vm.py PLAN_FILE RESULT_FILE

Makes the network of the kit for each case, loads the rules of the case, lets `send` send through all networks in turn,
and counts the datagrams that arrive.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import nftables

HOSTS = (1, 2, 3)
LAB = """
. ./bench/lab.sh
for number in $(seq 0 {last}); do lab_up -$number; done
"""
# Counts and drops what reaches a host, before the host does any work with it.
SINK = """
table netdev sink {{
  counter received {{ }}
  chain ingress {{
    type filter hook ingress device eth0 priority 0; policy accept;
    {match} counter name received drop
  }}
}}
"""


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    # With the default of 1,000, datagrams are lost when the host takes the processor away from the machine.
    run("sysctl", "-qw", "net.netfilter.nf_conntrack_max=2000000", "net.core.netdev_max_backlog=100000")
    Path("/proc/sys/net/netfilter/nf_conntrack_buckets").write_text("262144")
    cases = plan["cases"]
    begin = time.monotonic()
    run("bash", "-ec", LAB.format(last=len(cases) - 1))
    lines, loading = [], []
    for number, case in enumerate(cases):
        started = time.monotonic()
        set_up(number, case, plan)
        loading.append(round(time.monotonic() - started, 3))
        lines += describe(number, case, plan)
    print(f"set up in {time.monotonic() - begin:.1f} s", file=sys.stderr)
    sizes = [str(plan[name]) for name in ("rounds", "packets", "batch", "bytes", "warming")]
    sent = run("work/send", *sizes, text="\n".join(lines) + "\n")
    slices: list[list[float]] = [[] for _ in cases]
    for line in sent.splitlines():
        _, case_number, nanoseconds = line.split()
        slices[int(case_number)].append(float(nanoseconds))
    received = [received_by(number, case) for number, case in enumerate(cases)]
    result = {"kernel": platform.release(), "loading": loading, "slices": slices, "received": received}
    Path(sys.argv[2]).write_text(json.dumps(result))


def set_up(number: int, case: dict[str, Any], plan: dict[str, Any]) -> None:
    balancer = f"lb-{number}"
    ip = ["route add local 10.0.0.0/16 dev lo", "route add 10.3.0.0/16 via 10.2.1.2 dev b1"]
    # The counters of the interfaces do not depend on the addresses behind them.
    added: dict[int, list[str]] = {}
    for host, address in plan["backends"]:
        if not address.endswith(".2"):
            mac = f"02:00:0a:02:{host:02x}:02"
            ip.append(f"neigh replace {address} lladdr {mac} dev b{host} nud permanent")
            added.setdefault(host, []).append(f"addr add {address}/24 dev eth0")
    for host, commands in added.items():
        run("ip", "-n", f"backend{host}-{number}", "-batch", "-", text="\n".join(commands) + "\n")
    ip += case["ip"].splitlines()
    run("ip", "-n", balancer, "-batch", "-", text="\n".join(ip) + "\n")
    if case["sysctl"]:
        run("ip", "netns", "exec", balancer, "sysctl", "-qw", case["sysctl"])
    for program, key in (("nft -f -", "nft"), ("ipvsadm -R", "ipvsadm"), ("iptables-legacy-restore", "iptables")):
        if case[key]:
            run("ip", "netns", "exec", balancer, *program.split(), text=case[key] + "\n")
    for namespace in sinks(number, case):
        nft(namespace, SINK.format(match=match_of(case, plan["collector"])))


def match_of(case: dict[str, Any], collector: int) -> str:
    """Return the condition of nft for the datagrams to count. Copies to the collector's port are not among them."""
    if case["servers"]:
        return "udp dport 20000-29999"
    return f"meta protocol ip udp dport != {collector}" if case["copies"] else "meta protocol ip"


def sinks(number: int, case: dict[str, Any]) -> list[str]:
    """Return the namespaces that receive the datagrams: the client for replies, else the hosts."""
    return [f"client-{number}"] if case["servers"] else [f"backend{host}-{number}" for host in HOSTS]


def describe(number: int, case: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Return the case's paragraph for `send`."""
    address, port = case["target"]
    lines = ["case", f"client client-{number} {address} {port} {plan['flows']} {plan['client']}"]
    return lines + [f"server backend{host}-{number} {at} {of}" for host, at, of in case["servers"]]


def received_by(number: int, case: dict[str, Any]) -> list[int]:
    found: Counter[int] = Counter()
    namespaces = sinks(number, case)
    for place, namespace in enumerate(namespaces):
        for listed in json.loads(nft(namespace, "list counters"))["nftables"]:
            found[place] += listed.get("counter", {}).get("packets", 0)
    return [found[place] for place in range(len(namespaces))]


def nft(namespace: str, text: str) -> str:
    """Carry out a command of nft in a namespace, without a process, and return its output as JSON."""
    here = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        if libc.setns(there, 0):
            sys.exit(f"{namespace}: setns: {os.strerror(ctypes.get_errno())}")
        context = nftables.Nftables()
        context.set_json_output(text.startswith("list"))
        status, output, error = context.cmd(text)
        if status:
            sys.exit(f"{namespace}: {error}")
        return str(output)
    finally:
        libc.setns(here, 0)
        os.close(here)
        os.close(there)


def run(*argv: str, text: str = "") -> str:
    done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(argv)[:200]}: {done.returncode}\n{done.stderr}\n{text[:300]}")
    return done.stdout


if __name__ == "__main__":
    main()
