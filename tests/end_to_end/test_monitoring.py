"""The alerts and the dashboard of deploy/monitoring/: the real Prometheus scrapes a real daemon under traffic."""

from __future__ import annotations

import json
import math
import resource
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from daemon_process import PATIENCE, Running, mounted
from prometheus import ALERTS, FASTER, MONITORING, Prometheus, alert_names, promtool, sped_up
from steady_traffic import Flow

from nftlb.lab import VIP4, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECK = {
    "udp": {"send": "are you there", "match": "are you there"},
    "interval": "100ms",
    "fast_interval": "50ms",
    "timeout": "5s",  # a busy machine must not look like a dead backend; a stopped server refuses at once
    "rise": 1,
    "fall": 1,
}
PORTS = {"dns": 5301, "spare": 5302, "panic": 5303}
COLLECTOR = 5304
DASHBOARD = MONITORING / "dashboard.json"
DEPENDS_ON_LOAD = {"NftlbChecksLate", "NftlbDown"}
"""Alerts that a busy machine may cause at any time: it runs late, or does not answer a scrape for a second."""


def pools(lab: Lab) -> dict[str, Any]:
    """Three pools on the same two hosts: one with a collector, one with a backend that stands by, one that panics."""
    archive = {"address": lab.backends[0].address(4), "port": COLLECTOR, "health": CHECK}
    more: dict[str, dict[str, Any]] = {
        "dns": {"hooks": {"backend_down": ["/bin/false"]}, "mirror": {"archive": archive}},
        "spare": {"preempt_delay": "0s"},
        "panic": {"panic": "60%"},
    }
    return {
        name: {
            "listen": f"{VIP4}:{53 + number}/udp",
            "backends": {
                host.name: {"address": host.address(4), "port": port, "priority": place if name == "spare" else 1}
                for place, host in enumerate(lab.backends, 1)
            },
            "health": CHECK,
            **more[name],
        }
        for number, (name, port) in enumerate(PORTS.items())
    }


def expressions() -> Iterator[str]:
    """The expressions of all panels and annotations of the dashboard, for all pools, faster like the alerts."""
    board = json.loads(DASHBOARD.read_text())
    targets = [target for panel in board["panels"] for target in panel.get("targets", ())]
    for found in [*targets, *board["annotations"]["list"]]:
        whole = found["expr"].replace("$instance", ".*").replace("$pool", ".*").replace("$__rate_interval", "2m")
        assert "$" not in whole
        yield sped_up(whole)


def has_data(series: list[dict[str, Any]]) -> bool:
    """Whether any series has a number."""
    return any(math.isfinite(float(value)) for one in series for _, value in one["values"])


def test_durations_are_shortened() -> None:
    """The tests shorten all durations of the alerts, and nothing else."""
    assert FASTER == 60
    assert "for: 1000ms" == sped_up("for: 1m")
    assert "increase(a[10000ms]) > 3" == sped_up("increase(a[10m]) > 3")
    flaps = 'nftlb_backend_transitions_total{event="backend_down"}'
    assert f"increase({flaps}[10m]) > 3" in ALERTS.read_text()
    assert f"increase({flaps}[60000ms]) > 3" in sped_up(ALERTS.read_text())


def test_promtool_accepts_the_alerts() -> None:
    """The rules are valid, and each alert has a severity, a summary and a description."""
    assert f"{len(alert_names())} rules found" in promtool("check", "rules", str(ALERTS))


@dataclass
class Scene:
    """The daemon under traffic, with Prometheus. Each method makes faults, and waits until their alerts fire."""

    lab: Lab
    daemon: Running
    prometheus: Prometheus
    servers: list[ExitStack]
    limit: Path
    """The file that the daemon reads as the limit of conntrack."""

    def stop_server(self, number: int) -> None:
        self.servers[number].close()

    def start_server(self, number: int) -> None:
        host = self.lab.backends[number]
        self.servers[number].enter_context(self.lab.serve([*PORTS.values(), COLLECTOR], backends=[host], versions=[4]))

    def break_backends(self) -> None:
        """One server stops, then both; then the first comes and goes."""
        self.stop_server(0)
        self.prometheus.wait_for_alerts(
            "NftlbBackendDown",
            "NftlbCollectorDown",
            "NftlbPoolPanic",
            "NftlbPriorityFailover",
            "NftlbBackendRefuses",
            "NftlbHooksFail",
        )
        self.stop_server(1)
        self.prometheus.wait_for_alerts("NftlbPoolNotReady", "NftlbPoolFallback")
        self.start_server(1)
        deadline = time.monotonic() + 2 * PATIENCE
        while "NftlbBackendFlapping" not in self.prometheus.firing():
            moment = time.monotonic()
            assert moment < deadline, "NftlbBackendFlapping does not fire, although a backend comes and goes"
            self.start_server(0)
            self.daemon.wait("backend_up", "b1", since=moment, count=len(PORTS))
            self.stop_server(0)
            self.daemon.wait("backend_down", "b1", since=moment, count=len(PORTS))
        self.start_server(0)

    def break_rules(self) -> None:
        """Another program owns the table, and later deletes all rules."""
        self.lab.nft("delete table ip nftlb; add table ip nftlb { flags owner; }")
        self.prometheus.wait_for_alerts("NftlbKernelNotSynced", "NftlbSwapFails", "NftlbFault")
        self.lab.nft("delete table ip nftlb")
        self.prometheus.wait("nftlb_kernel_synced == 1")
        self.lab.nft("flush ruleset")
        self.prometheus.wait_for_alerts("NftlbRulesChangedByOthers")

    def break_host(self) -> None:
        """The host does not forward, conntrack and the descriptors are nearly full, and the file is bad."""
        self.daemon.write({"dns": "nothing"})
        self.daemon.process.send_signal(signal.SIGHUP)
        self.prometheus.wait_for_alerts("NftlbConfigRefused")  # before descriptors are short, which a reload needs
        self.lab.balancer.sysctl("net.ipv4.ip_forward", 0)
        self.limit.write_text("1\n")
        process = self.daemon.process.pid
        _, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
        # At a single moment, many checks may have sockets that are closed soon.
        (least,) = self.prometheus.query('min_over_time(process_open_fds{job="nftlb"}[5s])')
        resource.prlimit(process, resource.RLIMIT_NOFILE, (int(least["value"][1]) + 2, hard))
        self.prometheus.wait_for_alerts("NftlbHostLacks", "NftlbConntrackFills", "NftlbFewDescriptors")

    def break_daemon(self) -> None:
        """The daemon gets no processor for half a second, again and again; it ends, and starts with the bad file."""
        deadline = time.monotonic() + 2 * PATIENCE
        while "NftlbChecksLate" not in self.prometheus.firing():
            assert time.monotonic() < deadline, "NftlbChecksLate does not fire, although the daemon stands still"
            self.daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)  # the fault itself
            self.daemon.process.send_signal(signal.SIGCONT)
            self.prometheus.wait("up == 1")
        self.daemon.stop()
        self.prometheus.wait_for_alerts("NftlbDown")
        self.daemon.start()
        self.prometheus.wait_for_alerts("NftlbConfigCopyInUse")


@pytest.mark.slow
def test_alerts_fire_and_panels_have_data(tmp_path: Path) -> None:
    """Every alert fires when its fault is made and none before; every panel has data; promtool accepts the metrics."""
    limit = tmp_path / "limit"
    limit.write_text("262144\n")
    wrapper = mounted(f"mount --bind {limit} /proc/sys/net/netfilter/nf_conntrack_max")
    with Lab(backends=2) as lab, ExitStack() as stack:
        servers = [stack.enter_context(ExitStack()) for _ in lab.backends]
        daemon = Running(lab.balancer, tmp_path, pools(lab), wrapper=wrapper)
        prometheus = Prometheus(lab.balancer, tmp_path, daemon.socket)
        scene = Scene(lab, daemon, prometheus, servers, limit)
        for number, host in enumerate(lab.backends):
            host.sysctl("net.ipv4.icmp_ratelimit", 0)  # else a check of a stopped server waits for its time-out
            scene.start_server(number)
        stack.enter_context(daemon)
        stack.enter_context(Flow(lab.client, (VIP4, 53), rate=100))
        began = time.time()
        stack.enter_context(prometheus)
        prometheus.wait('rate(nftlb_pool_packets_total{pool="dns"}[2s]) > 0')

        assert set() == prometheus.firing() - DEPENDS_ON_LOAD
        assert "" == promtool("check", "metrics", given=daemon.call("GET", "/metrics")[1])
        scene.break_backends()
        scene.break_rules()
        scene.break_host()
        scene.break_daemon()
        assert alert_names() == prometheus.fired
        assert [] == [whole for whole in expressions() if not has_data(prometheus.history(whole, began))]
