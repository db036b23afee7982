"""Imports of the output of ipvsadm, and of the text around it in a terminal or in a script.

The table has the result of each kind of line: text of nftlb's configuration, or a remark or an error with its line.
"""

from __future__ import annotations

import gzip
import re
import time
from pathlib import Path

import pytest
from servers.programs import data

from nftlb.config import parse_config
from nftlb.errors import ConfigError
from nftlb.importer import from_ipvsadm
from nftlb.importer.draft import FOLLOWED

NOT_THIS = "which has no schedulers; allowed: `ipvsadm -S -n`, or `ipvsadm -L -n`"
HEAD = """\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
"""


def table(service: str = "UDP  192.0.2.53:53 rr", server: str = "10.0.0.1:53  Masq    1      0          0") -> str:
    """A table with this service on line 4 and this server on line 5."""
    return f"{HEAD}{service}\n  -> {server}\n"


def script(*lines: str) -> str:
    """These commands, after a service with a server on lines 1 and 2."""
    return "\n".join(["ipvsadm -A -u 192.0.2.53:53 -s rr", "ipvsadm -a -u 192.0.2.53:53 -r 10.0.0.1:53 -m", *lines, ""])


def with_service(options: str) -> str:
    return f"-A -u 192.0.2.53:53 -s rr {options}\n-a -u 192.0.2.53:53 -r 10.0.0.1:53 -m\n"


def with_server(options: str) -> str:
    return f"-A -u 192.0.2.53:53 -s rr\n-a -u 192.0.2.53:53 -r 10.0.0.1:53 {options}\n"


# Each row has the text and the parts of the result: "4: ..." is the beginning of a remark on line 4, "error 4: ..."
# of an error; other parts are in the YAML. There are no other remarks.
TABLE: dict[str, tuple[str, tuple[str, ...]]] = {
    # --- options of services
    "-t": ("-A -t 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m", ("192.0.2.1:80/tcp",)),
    "--tcp-service": ("-A --tcp-service 192.0.2.1:80 -s rr\n-a -t 192.0.2.1:80 -r 10.0.0.1:80 -m", ("192.0.2.1:80/t",)),
    "-u": (with_service(""), ("192.0.2.53:53/udp", "per: flow")),
    "--udp-service": ("-A --udp-service=192.0.2.1:80 -srr\n-a -u192.0.2.1:80 -r10.0.0.1:80 -m", ("192.0.2.1:80/udp",)),
    "--sctp-service": (
        "-A --sctp-service 192.0.2.1:80 -s rr\n-a --sctp-service 192.0.2.1:80 -r 10.0.0.1:80 -m", ("192.0.2.1:80/sct",),
    ),
    "-f": (script("ipvsadm -A -f 7", "ipvsadm -a -f 7 -r 10.0.0.1 -g"), ("3: not taken over: firewall mark 7, with",)),
    "--fwmark-service": (
        script("ipvsadm -A -f 7", "ipvsadm -A --fwmark-service 7 --ipv6 -s rr"),
        ("3: not taken over: firewall mark 7, with", "4: not taken over: firewall mark 7, with"),
    ),
    "an address of IPv6": ("-A -t [2001:db8::1]:80 -s rr\n-a -t [2001:db8::1]:80 -r [2001:db8::2]:80 -m", ("2001:db",)),
    "-s": (with_service("-s sh"), ("balance: hash",)),
    "--scheduler": (with_service("--scheduler=wlc"), ("1: not the same: scheduler wlc",)),
    "no scheduler": ("-A -u 192.0.2.53:53\n-a -u 192.0.2.53:53 -r 10.0.0.1:53 -m", ("1: not the same: scheduler wlc",)),
    "an unknown scheduler": (with_service("-s mine"), ("1: not the same: scheduler mine",)),
    "-p": (with_service("-p"), ("balance: hash", "1: not the same: -p: balance: hash")),
    "-p 300": (with_service("-p 300"), ("balance: hash", "1: not the same: -p 300: balance: hash")),
    "-p300": (with_service("-p300"), ("balance: hash", "1: not the same: -p 300: balance: hash")),
    "--persistent": (with_service("--persistent 9"), ("balance: hash", "1: not the same: --persistent 9")),
    "-M": (with_service("-p -M 255.255.255.0"), ("balance: hash", "1: not the same: -p", "1: not taken over: -M 255.")),
    "--netmask": (with_service("-p --netmask 64"), ("balance: hash", "1: not the same: -p", "1: not taken over: --ne")),
    "--pe": (with_service("-p --pe sip"), ("balance: hash", "1: not the same: -p", "1: not taken over: --pe sip")),
    "-b": (with_service("-b sh-port").replace("-s rr", "-s sh"), ("key: source-port",)),
    "-b of another scheduler": (with_service("-b sh-port"), ("1: not taken over: -b sh-port",)),
    "-b, in part": (with_service("-b flag-3,mh-port -s mh"), ("key: source-port", "1: not taken over: -b flag-3,mh-p")),
    "--sched-flags": (with_service("-s sh --sched-flags sh-fallback,sh-port"), ("key: source-port",)),
    "-o": ("-A -u 192.0.2.53:53 -s rr -o\n-a -u 192.0.2.53:53 -r 10.0.0.1:53 -m", ("192.0.2.53:53/udp",)),
    "--ops": (with_service("--ops"), ("192.0.2.53:53/udp",)),
    "-n": (with_service("-n"), ("192.0.2.53:53/udp",)),
    "-6": (script("ipvsadm -A -f 7 -6 -s rr"), ("3: not taken over: firewall mark 7, with its servers",)),
    "an option of servers": (with_service("-w 3"), ("1: not taken over: -w 3",)),
    # --- options of servers
    "-m": (with_server("-m"), ("source: keep",)),
    "--masquerading": (with_server("--masquerading"), ("source: keep",)),
    "-g": (with_server("-g"), ("forward: dsr", "1: not the same: balance: hash")),
    "--gatewaying": (with_server("--gatewaying"), ("forward: dsr", "1: not the same: balance: hash")),
    "no method": (with_server(""), ("forward: dsr", "1: not the same: balance: hash")),
    "-i": (with_server("-i"), ("forward: dsr", "encap: ipip", "1: not the same: balance: hash")),
    "--ipip": (with_server("--ipip"), ("encap: ipip", "1: not the same: balance: hash")),
    "--tun-type": (
        with_server("-i --tun-type gue --tun-port 6080 --tun-nocsum"),
        ("encap: ipip", "1: not the same: balance: hash", "2: not taken over: --tun-type gue: nftlb has tunnels of",
         "2: not taken over: --tun-port 6080", "2: not taken over: --tun-nocsum"),
    ),
    "--tun-type gre": (with_server("-i --tun-type gre"), ("encap: gre", "1: not the same: balance: hash")),
    "--tun-type ipip": (with_server("-i --tun-type ipip"), ("encap: ipip", "1: not the same: balance: hash")),
    "--tun-type without a tunnel": (with_server("-m --tun-type gre"), ("2: not taken over: --tun-type gre",)),
    "--tun-csum": (with_server("-m --tun-csum --tun-remcsum"),
                   ("2: not taken over: --tun-csum", "2: not taken over: --tun-remcsum")),
    "-w": (with_server("-m -w 3").replace("rr", "wrr"), ("weight: 3",)),
    "--weight": (with_server("-m --weight=3").replace("rr", "wrr"), ("weight: 3",)),
    "-w 0": (with_server("-m -w 0"), ("admin: drain",)),
    "-x": (with_server("-m -x 9 -y 3"), ("2: not taken over: -x 9", "2: not taken over: -y 3")),
    "--u-threshold": (
        with_server("-m --u-threshold 9 --l-threshold 3"),
        ("2: not taken over: --u-threshold 9", "2: not taken over: --l-threshold 3"),
    ),
    "--real-server": ("-A -u 192.0.2.1:80 -s rr\n-a -u 192.0.2.1:80 --real-server 10.0.0.1:80 -m", ("10.0.0.1:80",)),
    "an option of services": (with_server("-m -s rr"), ("2: not taken over: -s rr",)),
    "a server of this host": (with_server("-m") + "-a -u 192.0.2.53:53 -r 127.0.0.1:53 -m", ("3: not taken over: re",)),
    "a server that is the listener": (
        with_server("-m") + "-a -u 192.0.2.53:53 -r 192.0.2.53:53 -m",
        ("3: not taken over: real server 192.0.2.53: a listener has this",),
    ),
    "a service of this host": (with_server("-m") + "-A -u 127.0.0.1:53 -s rr\n-a -u 127.0.0.1:53 -r 10.0.0.1:53 -m",
                               ("3: not taken over: 127.0.0.1:53/udp: a loopback", "3: not taken over: UDP 127.0.0.1",
                                "4: not taken over: real server 10.0.0.1: its service has no")),
    "a service of all ports": ("-A -t 192.0.2.1:0 -s rr -p 9\n-a -t 192.0.2.1:0 -r 10.0.0.1:0 -m",
                               ("192.0.2.1:1-65535/tcp", "1: not the same: -p 9")),
    # --- commands
    "-A": (script(), ("192.0.2.53:53/udp",)),
    "-a": (script("ipvsadm -a -u 192.0.2.53:53 -r 10.0.0.2:53 -m"), ("10.0.0.2:53",)),
    "--add-service": (
        "ipvsadm --add-service -u 192.0.2.1:80 -s rr\nipvsadm --add-server -u 192.0.2.1:80 -r 10.0.0.1:80 -m", ("10.",),
    ),
    "-Au": ("ipvsadm -Au 192.0.2.1:80 -s rr\nipvsadm -au 192.0.2.1:80 -r 10.0.0.1:80 -mw3", ("10.0.0.1:80",)),
    "-C": (script("ipvsadm -C"), ("3: not taken over: ipvsadm -C: nftlb has its own tables",)),
    "--clear": (script("ipvsadm --clear"), ("3: not taken over: ipvsadm --clear",)),
    "-Z": (script("ipvsadm -Z"), ("3: not taken over: ipvsadm -Z: nftlb's counters",)),
    "--zero": (script("ipvsadm --zero"), ("3: not taken over: ipvsadm --zero",)),
    "--set": (script("ipvsadm --set 900 120 300"), ("3: not taken over: ipvsadm --set 900 120 300: conntrack",)),
    "--start-daemon": (script("ipvsadm --start-daemon master --mcast-interface eth0"), ("3: not taken over: ipvsadm",)),
    "--stop-daemon": (script("ipvsadm --stop-daemon master"), ("3: not taken over: ipvsadm --stop-daemon",)),
    "-R": (script("ipvsadm -R"), ("3: not taken over: ipvsadm -R: import the file",)),
    "--restore": (script("ipvsadm --restore"), ("3: not taken over: ipvsadm --restore",)),
    "-D": (script("ipvsadm -D -u 192.0.2.53:53"), ("error 3: -D removes a service that was added before; allowed: -",)),
    "--delete-service": (script("ipvsadm --delete-service -u 192.0.2.53:53"), ("error 3: --delete-service removes",)),
    "-E": (script("ipvsadm -E -u 192.0.2.53:53 -s sh"), ("error 3: -E changes a service",)),
    "--edit-service": (script("ipvsadm --edit-service -u 192.0.2.53:53 -s sh"), ("error 3: --edit-service changes",)),
    "-d": (script("ipvsadm -d -u 192.0.2.53:53 -r 10.0.0.1:53"), ("error 3: -d removes a server",)),
    "--delete-server": (script("ipvsadm --delete-server -u 192.0.2.53:53 -r 10.0.0.1:53"), ("error 3: --delete-serv",)),
    "-e": (script("ipvsadm -e -u 192.0.2.53:53 -r 10.0.0.1:53"), ("error 3: -e changes a server",)),
    "--edit-server": (script("ipvsadm --edit-server -u 192.0.2.53:53 -r 10.0.0.1:53"), ("error 3: --edit-server cha",)),
    "-h": (script("ipvsadm -h"), ("3: not taken over: ipvsadm -h",)),
    "--help": (script("ipvsadm --help"), ("3: not taken over: ipvsadm --help",)),
    "-L": (script("ipvsadm -L"), ("10.0.0.1:53",)),
    "--list": (script("ipvsadm --list --numeric --exact --sort --nosort"), ("10.0.0.1:53",)),
    "-S": (script("ipvsadm -S -n"), ("10.0.0.1:53",)),
    "--save": (script("ipvsadm --save --numeric"), ("10.0.0.1:53",)),
    # --- text around them in a terminal
    "a prompt": ("root@lb1:~# ipvsadm -Ln\n" + table() + "root@lb1:~#\n", ("10.0.0.1:53",)),
    "another prompt": ("[root@lb1 ~]# ipvsadm -L -n\n" + table() + "[root@lb1 ~]#\n", ("10.0.0.1:53",)),
    "the prompt of root": ("# ipvsadm -Ln\n" + table() + "#\n", ("10.0.0.1:53",)),
    "a prompt and sudo": ("$ sudo -n /sbin/ipvsadm -S -n\n" + script() + "$\n", ("10.0.0.1:53",)),
    "a prompt before a command": (
        with_service("").replace("-A", "lb1$ ipvsadm -A") + "lb1$ sudo ipvsadm -a -u 192.0.2.53:53 -r 10.0.0.2:53 -m",
        ("10.0.0.2:53",),
    ),
    "a command in a comment": (script("# ipvsadm -A -u 192.0.2.54:53 -s rr"), ("3: not taken over: # ipvsadm -A -u",)),
    "a comment": ("#!/bin/sh\n# the balancer\n" + script("ipvsadm -C # first"), ("5: not taken over: ipvsadm -C",)),
    "a line that goes on": (with_service("").replace(" -s", " \\\n-s"), ("10.0.0.1:53",)),
    "quotes": ("ipvsadm -A -u \"192.0.2.1:80\" -s 'rr'\nipvsadm -a -u 192.0.2.1:80 -r '10.0.0.1:80' -m", ("10.0.0.1",)),
    "lines left out": (table() + "...\n", ("error 6: ... stands for lines that are left out; allowed: all lines",)),
    "lines left out by a letter": (table() + "  …\n", ("error 6: … stands for lines that are left out",)),
    "a pager": (table() + "--More--\n", ("error 6: --More-- stands for lines that are left out",)),
    "a variable": ("VIP=192.0.2.1\nipvsadm -A -u $VIP:80 -s rr\n", ("error 1: VIP=192.0.2.1 belongs to a script; ru",)),
    "a variable of elsewhere": ("ipvsadm -A -u ${VIP}:80 -s rr\n", ("error 1: ${VIP}:80 is a variable of a shell; r",)),
    "a word of a shell": (script("for one in 1 2; do"), ("error 3: for is not a line of `ipvsadm -S -n`; run a scri",)),
    "a name": ("-A -t www.example.com:http -s rr", ("error 1: www.example.com:http is not ADDRESS:PORT; allowed: nu",)),
    # --- tables
    "--list, a table": (table(), ("192.0.2.53:53/udp", "10.0.0.1:53")),
    "a table in the lines of Windows": ("\ufeff" + table().replace("\n", "\r\n"), ("10.0.0.1:53",)),
    "flags": (
        table("UDP  192.0.2.53:53 sh persistent 300 mask 255.255.255.0 pe sip ops (sh-fallback,sh-port)"),
        ("balance: hash", "4: not the same: persistent 300", "4: not taken over: mask 255.255.255.0", "4: not taken ov",
         "4: not taken over: (sh-fallback,sh-port): sh-port"),
    ),
    "flags of a scheduler": (table("UDP  192.0.2.53:53 sh (sh-fallback,sh-port)"), ("key: source-port",)),
    "Route": (table(server="10.0.0.1:53 Route 1 0 0"), ("forward: dsr", "4: not the same: balance: hash")),
    "Tunnel": (table(server="10.0.0.1:53 Tunnel 1 0 0"), ("encap: ipip", "4: not the same: balance: hash")),
    "Local": (table() + "  -> 192.0.2.9:53 Local 1 0 0", ("6: not taken over: 192.0.2.9:53 Local: a backend must be",)),
    "Local, of this host": (table() + "  -> 127.0.0.1:53 Local 1 0 0", ("6: not taken over: 127.0.0.1:53 Local: a b",)),
    "weight 0": (table(server="10.0.0.1:53 Masq 0 0 0"), ("admin: drain",)),
    "FWM": (table() + "FWM  7 rr\n  -> 10.0.0.1:0 Route 1 0 0", ("6: not taken over: FWM 7, with its servers",)),
    "FWM of IPv6": (table() + "FWM  7 rr\nFWM  7 IPv6 rr\n  -> [2001:db8::1]:0 Route 1 0 0",
                    ("6: not taken over: FWM 7, with its servers", "7: not taken over: FWM 7, with its servers")),
    "--tun-info": (
        HEAD.replace("Forward Weight", "Forward TunnelInfo    Weight") + "UDP 192.0.2.53:53 wrr\n"
        "  -> 10.0.0.1:53 Tunnel  gue:6080      3      0          0\n",
        ("weight: 3", "4: not the same: balance: hash", "5: not taken over: tunnel gue:6080: nftlb has tunnels of IP"),
    ),
    "--tun-info, gre": (
        HEAD.replace("Forward Weight", "Forward TunnelInfo    Weight") + "UDP 192.0.2.53:53 wrr\n"
        "  -> 10.0.0.1:53 Tunnel  gre           3      0          0\n",
        ("encap: gre", "weight: 3", "4: not the same: balance: hash"),
    ),
    "--tun-info, without tunnels": (
        HEAD.replace("Forward Weight", "Forward TunnelInfo    Weight") + "UDP 192.0.2.53:53 wrr\n"
        "  -> 10.0.0.1:53 Masq    n/a           3      0          0\n",
        ("weight: 3",),
    ),
    "--stats": (
        HEAD.partition("\n")[0] + "\nProt LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n",
        (f"error 2: a table of counters, {NOT_THIS}",),
    ),
    "--stats without a head": ("UDP  192.0.2.53:53   1   2  0  56  0\n", ("error 1: 1 is not a scheduler: this see",)),
    "--rate": (
        "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n",
        (f"error 1: a table of rates, {NOT_THIS}",),
    ),
    "--thresholds": (
        "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn\n",
        (f"error 1: a table of thresholds, {NOT_THIS}",),
    ),
    "--persistent-conn": (
        "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn\n",
        (f"error 1: a table of persistent connections, {NOT_THIS}",),
    ),
    "-c": (
        "IPVS connection entries\npro expire state       source             virtual            destination\n",
        (f"error 1: a table of connections, {NOT_THIS}",),
    ),
    "-c without a head": ("pro expire state       source\n", (f"error 1: a table of connections, {NOT_THIS}",)),
    "--connection": ("# x\nlb1# ipvsadm -Lnc\n", (f"error 2: a table of connections, {NOT_THIS}",)),
    "--stats, asked for": ("$ ipvsadm -L -n --stats\n", (f"error 1: a table of counters, {NOT_THIS}",)),
    "--rate, asked for": ("$ sudo ipvsadm --list --rate\n", (f"error 1: a table of rates, {NOT_THIS}",)),
    "--timeout": (script("Timeout (tcp tcpfin udp): 900 120 300"), ("3: not taken over: Timeout (tcp tcpfin udp): 9",)),
    "--daemon": (script("master sync daemon (mcast=eth0, syncid=0)"), ("3: not taken over: master sync daemon (mcas",)),
}  # fmt: skip
REMARK = re.compile(r"(?:error )?[0-9]+: ")


def problems(text: str) -> list[str]:
    """The errors and remarks of an import, each with its line."""
    try:
        return [f"{remark.line}: {remark.message}" for remark in from_ipvsadm(text, "saved").remarks]
    except ConfigError as error:
        return [f"error {problem.line}: {problem.message}" for problem in error.problems]


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    """The result is as the row says, without other remarks, and it is valid."""
    text, expected = TABLE[name]
    said = [line for line in expected if REMARK.match(line)]
    found = problems(text)
    assert len(said) == len(found), found
    for remark in said:
        assert any(line.startswith(remark) for line in found), (remark, found)
    if not any(line.startswith("error ") for line in found):
        became = from_ipvsadm(text, "saved").text
        assert parse_config(became).pools
        for wanted in expected:
            assert wanted in said or wanted in became, became


def manual() -> str:
    """The manual page of ipvsadm, the only list of its options."""
    return gzip.decompress(Path(data("usr/share/man/man8/ipvsadm.8.gz")).read_bytes()).decode().replace("\\-", "-")


def test_every_option_of_ipvsadm_is_in_the_table() -> None:
    """The table has every option, except those that belong to the commands of sync daemons or to iptables."""
    options = set(re.findall(r"--[a-z][a-z0-9-]*[a-z0-9]", manual()))
    assert {"--tcp-service", "--sched-flags", "--tun-type", "--rate"} < options
    daemons = {"--syncid", "--mcast-interface", "--sync-maxlen", "--mcast-group", "--mcast-port", "--mcast-ttl"}
    rows = {word.partition("=")[0] for name, (text, _) in TABLE.items() for word in (*name.split(), *text.split())}
    of_iptables = {"--mark", "--set-mark"}
    assert set() == options - rows - daemons - of_iptables


def test_the_examples_of_the_manual() -> None:
    """The commands in the examples that add services are imported."""
    examples = manual().partition("\n.SH EXAMPLE")[2].replace("\\\\\n", "").replace("\\\n", "")
    lines = re.findall(r"(?m)^(?:ipvsadm )?-[Aa] .*$", examples)
    assert len(lines) > 20
    starts = [place for place, line in enumerate(lines) if "-A " in line]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):  # they have the same services
        found = problems("\n".join(lines[start:end]))
        of_marks = "-f 1" in lines[start]
        assert of_marks == any(line.startswith("error") for line in found), found
        assert of_marks == ("error 1: not taken over: firewall mark 1, with its servers" in " ".join(found))


def test_too_many_servers() -> None:
    """More servers than conntrack zones are an error with the service that is over the limit."""
    servers = "".join(f"-a -u 192.0.2.53:53 -r 10.{number >> 8}.{number & 255}.1:53 -m\n" for number in range(65_536))
    assert problems(f"-A -u 192.0.2.53:53 -s rr\n{servers}")[0].startswith("error 1: UDP 192.0.2.53:53: the servers up")


HOSTILE = {
    "one word": "x" * 5_000_000,
    "a line that goes on": "a\\\n" * 200_000,
    "many options": "-A -u 192.0.2.53:53 " + "-o " * 20_000,
    "letters": "-" + "o" * 60_000,
    "prompts": "$ " * 30_000,
    "comments": "# ipvsadm -A\n" * 20_000,
    "services": "".join(
        f"UDP 10.{number >> 8}.{number & 255}.1:53 rr\n-> 192.0.2.1:53 Masq 1 0 0\n" for number in range(5_000)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_are_read_in_bounded_time(name: str) -> None:
    """Hostile text is imported or refused within 30 seconds of processor time."""
    began = time.process_time()
    problems(HOSTILE[name])
    assert time.process_time() - began < 30


def test_names_without_the_option_n() -> None:
    """Names of ports and, in commands, names of servers are taken over; a table may have cut names off."""
    text = "-A -u 192.0.2.53:domain -s wrr\n-a -u 192.0.2.53:domain -r ns1.example.com:domain -m -w 3\n"
    found = from_ipvsadm(text + "-a -u 192.0.2.53:domain -r 10.0.0.2:5353 -m\n")
    (pool,) = parse_config(found.text).pools

    assert ["192.0.2.53:53/udp"] == [str(listener) for listener in pool.listen]
    assert [("ns1.example.com", 53, 3)] == [(str(named.lookup), named.port, named.weight) for named in pool.named]
    assert [(2, f"not the same: ns1.example.com:domain: {FOLLOWED}")] == [
        (remark.line, remark.message) for remark in found.remarks if "looked up" in remark.message
    ]
    for bad in ("-A -u vip.example.com:53\n", "UDP 192.0.2.53:domain rr\n  -> ns1.example.co:domain Masq 1 0 0\n"):
        with pytest.raises(ConfigError, match=r"is not ADDRESS:PORT; allowed: numbers"):
            from_ipvsadm(bad)
    with pytest.raises(ConfigError, match=r"nonsense is not a known name of a port"):
        from_ipvsadm("-A -u 192.0.2.53:nonsense\n")
