"""Imports from ldirectord: what becomes of each of its directives, and that nothing is lost in silence.

The table says for each directive, at each level where ldirectord takes it, what it becomes: text of our configuration,
a remark with its line, or an error with its line. ldirectord itself judges every file of the table, too.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import time
from pathlib import Path

import pytest
from daemons import ldirectord
from daemons.programs import data
from hypothesis import given, settings
from hypothesis import strategies as st

from nftlb.cli import main
from nftlb.config import parse
from nftlb.errors import ConfigError
from nftlb.importer import from_ldirectord
from nftlb.importer.directives import CHECKTYPES, SERVICES, TOP, VIRTUAL

MAIL = "hooks can send mail"
UNREAD = "service nntp does not use the directive"
HTTP = "a redirect is a failure"


def top(said: str) -> str:
    """A file with this before its virtual, whose check, of the greeting of nntp, is the same here as there."""
    return f"{said}\nvirtual = 192.0.2.80:80\n\treal = 10.0.0.11:80 masq\n\tservice = nntp\n"


def inner(said: str) -> str:
    """A file with this in its virtual, from line 4 on."""
    more = "\n".join(f"    {line}" for line in said.split("\n"))
    return f"virtual = 192.0.2.80:80\n    real = 10.0.0.11:80 masq\n    service = nntp\n{more}\n"


def checked(said: str, head: str = "virtual = 192.0.2.80:80") -> str:
    """A file with this in its virtual, from line 3 on, and no word before about checks."""
    more = "\n".join(f"\t{line}" for line in said.split("\n"))
    return f"{head}\n\treal = 10.0.0.11:80 masq\n{more}\n"


def udp(said: str) -> str:
    return checked(f"protocol = udp\n{said}")


def real(said: str, *more: str) -> str:
    """A file whose virtual, on line 1, has this server on line 2, after its check."""
    return "\n".join(["virtual = 192.0.2.80:80", f"\t{said}", "\tservice = nntp", *(f"\t{one}" for one in more), ""])


def six(said: str) -> str:
    return f"virtual6 = [2001:db8::80]:80\n\treal6 = [2001:db8:1::11]:80 masq\n\tservice = nntp\n\t{said}\n"


Row = tuple[str, tuple[str, ...]]

# Of each row: the file, and what it comes to. "4: ..." is the beginning of a remark on line 4; "error 4: ..." an error;
# anything else stands in the text. A file without remarks in its row has none.
TOP_TABLE: dict[str, Row] = {
    "checktimeout = 3": (top("checktimeout = 3"), ("timeout: 3s",)),
    "checktimeout = 0": (top("checktimeout = 0"), ("error 1: 0 can't stand for checktimeout",)),
    "checktimeout = 100000": (top("checktimeout = 100000"), ("timeout: 86400s", "1: not the same: checktimeout = 1")),
    "negotiatetimeout = 7": (top("checktimeout = 3\nnegotiatetimeout = 7"), ("timeout: 7s", "1: not taken over: chec")),
    "checkinterval = 4": (top("checkinterval = 4"), ("interval: 4s", "fast_interval: 4s")),
    "checkinterval = x": (top("checkinterval = x"), ("error 1: x can't stand for checkinterval; allowed: a number",)),
    "checkcount = 3": (top("checkcount = 3"), ("1: not taken over: checkcount = 3: no virtual needs it",)),
    "failurecount = 3": (top("failurecount = 3"), ("fall: 3",)),
    "failurecount = 999": (top("failurecount = 999"), ("fall: 255", "1: not the same: failurecount = 999")),
    "fallback = 10.0.0.9:81": (top("fallback = 10.0.0.9:81"), ("fallback: 10.0.0.9:81",)),
    "fallback = 10.0.0.9": (top("fallback = 10.0.0.9 masq"), ("fallback: 10.0.0.9:80",)),
    "fallback = 127.0.0.1:80": (top("fallback = 127.0.0.1:80"), ("1: not taken over: fallback 127.0.0.1: a loopback",)),
    "fallback = 10.0.0.9 nat": (top("fallback = 10.0.0.9 nat"), ("error 1: fallback = 10.0.0.9 nat is no fallback",)),
    "fallback6 unused": (top("fallback6 = [2001:db8::9]:80"), ("1: not taken over: fallback6 = [2001:db8::9]:80: no",)),
    "fallback6": ("fallback6 = [2001:db8::9]:81\n" + six("#"), ('fallback: "[2001:db8::9]:81"',)),
    "fallbackcommand": (
        top("fallbackcommand = /bin/f -x"),
        ('quorum_down: [/bin/f, "-x", start, 192.0.2.80:80, tcp]', ),
    ),
    "quiescent = yes": (top("quiescent = yes"), ("1: not the same: quiescent = yes: the connections of a server",)),
    "quiescent = no": (top("quiescent = no"), ()),
    "quiescent = maybe": (top("quiescent = maybe"), ("error 1: maybe can't stand for quiescent; allowed: no, yes",)),
    "emailalert": (top('emailalert = "a@example.com"'), (f"1: not taken over: emailalert = a@example.com: {MAIL}",)),
    "emailalertfreq": (top("emailalertfreq = 9"), (f"1: not taken over: emailalertfreq = 9: {MAIL}",)),
    "emailalertfreq = x": (top("emailalertfreq = x"), ("error 1: x can't stand for emailalertfreq",)),
    "emailalertstatus": (top("emailalertstatus = none"), (f"1: not taken over: emailalertstatus = none: {MAIL}",)),
    "emailalertstatus = odd": (top("emailalertstatus = odd"), ("error 1: odd can't stand for emailalertstatus",)),
    "emailalertfrom": (top("emailalertfrom = a@b"), (f"1: not taken over: emailalertfrom = a@b: {MAIL}",)),
    "cleanstop = yes": (top("cleanstop = yes"), ("1: not taken over: cleanstop = yes: the rules stay",)),
    "cleanstop = no": (top("cleanstop = no"), ()),
    "smtp": (top("smtp = mail.example.com"), (f"1: not taken over: smtp = mail.example.com: {MAIL}",)),
    "autoreload = yes": (top("autoreload = yes"), ("1: not taken over: autoreload = yes: nftlb reads its file",)),
    "autoreload = no": (top("autoreload=no"), ()),
    "callback": (top('callback = "/bin/c"'), ("1: not taken over: callback = /bin/c: nftlb has no hook",)),
    "callback without quotes": (top("callback = /bin/c"), ("error 1: /bin/c can't stand for callback; allowed: text",)),
    "logfile": (top('logfile = "local0"'), ("1: not taken over: logfile = local0: nftlb's log",)),
    "execute": (
        top("execute = a\nexecute = b"),
        ("1: not taken over: execute = a: import that", "2: not taken over: execute = b: import that"),
    ),
    "fork = no": (top("fork = no"), ("1: not taken over: fork = no: nftlb checks all",)),
    "fork = yes": (top("fork = yes"), ("1: not taken over: fork = yes: nftlb checks all backends side by side",)),
    "supervised": (top("supervised"), ("1: not taken over: supervised = yes: `nftlb run`",)),
    "supervised = no": (top("supervised = no"), ("1: not taken over: supervised = no: `nftlb run`",)),
    "supervised = x": (top("supervised = x"), ("error 1: x can't stand for supervised",)),
    "readdquiescent = yes": (top("readdquiescent = yes"), ("1: not taken over: readdquiescent = yes: nftlb has",)),
    "readdquiescent = no": (top("readdquiescent = no"), ()),
    "maintenancedir": (top("maintenancedir = /m"), ("1: not taken over: maintenancedir = /m: `nftlb maintenance",)),
    "connecttimeout": (top("connecttimeout = 3"), ("error 1: connecttimeout is no longer a directive of ldirectord",)),
    "timeout": (top("timeout = 3"), ("error 1: timeout is no longer a directive of ldirectord",)),
    "again": (top("failurecount = 2\nfailurecount = 3"), ("fall: 3", "1: not taken over: failurecount = 2: line 2 sa")),
    "unknown": (top("odd = 3"), ("error 1: odd is no directive outside of a virtual; allowed: DIRECTIVE = VALUE",)),
    "at the other level": (top('request = "x"'), ("error 1: request is no directive outside of a virtual; allowed: ",)),
    "indented": (top("    quiescent = no"), ("error 1: quiescent = no is indented, but belongs to no virtual",)),
    "virtual": (top("# none"), ("listen: 192.0.2.80:80/tcp",)),
    "virtual by names of ports": (checked("service = none", "virtual=192.0.2.80:http"), ("listen: 192.0.2.80:80/tcp",)),
    "virtual of a domain": (checked("service = none", "virtual=192.0.2.53:53"), ("listen: 192.0.2.53:53/udp", "per: ")),
    "virtual with more": (
        checked("service = none", "virtual=192.0.2.80:80/tcp"),
        ("listen: 192.0.2.80:80/tcp", "1: not taken over: /tcp of virtual"),
    ),
    "virtual of an unknown port": (checked("service = none", "virtual=192.0.2.80:nosuchport"), ("error 1: nosuchpor",)),
    "virtual of another family": (checked("service = none", "virtual=[2001:db8::1]:80"), ("error 1: [2001:db8::1] i",)),
    "virtual of no address": (checked("service = none", "virtual=300.0.2.80:80"), ("error 1: 300.0.2.80",)),
    "virtual twice": (
        checked("service = none") + checked("service = none"),
        ("error 4: virtual = 192.0.2.80:80 is there already",),
    ),
    "virtual of a mark": (
        checked("service = http", "virtual = 7") + checked("service = none"),
        ("1: not taken over: virtual = 7, with its 1 real servers: pools take packets by address",),
    ),
    "virtual of a mark, mistaken": (
        checked("service = http", "virtual = 192.0.2.1") + checked("service = none"),
        ("1: not taken over: virtual = 192.0.2.1, which ldirectord takes for the mark 192, with its 1",),
    ),
    "virtual of nothing": (checked("service = none", "virtual = "), ("error 1: \"\" can't stand for virtual",)),
    "virtual6": (six("# none"), ('listen: "[2001:db8::80]:80/tcp"',)),
    "virtual6 of a mark": (six("#") + "virtual6 = 7\n\treal6 = [2001:db8::1]:80 gate\n", ("5: not taken over: virtu",)),
    "virtual6 of another family": (
        "virtual6 = 192.0.2.80:80\n\treal6 = [2001:db8:1::11]:80 masq\n\tservice = nntp\n",
        ("error 1: 192.0.2.80 is of the wrong family",),
    ),
}  # fmt: skip
VIRTUAL_TABLE: dict[str, Row] = {
    "real masq": (real("real = 10.0.0.11:81 masq"), ("source: keep", "10.0.0.11:81")),
    "real gate": (real("real = 10.0.0.11:80 gate"), ("forward: dsr", "1: not the same: balance: hash keeps flows")),
    "real gate with a port": (
        real("real = 10.0.0.11:81 gate"),
        ("port: 81", "1: not the same: balance: hash", "2: not the same: port 81: with dsr packets keep theirs"),
    ),
    "real ipip": (
        real("real = 10.0.0.11:80 ipip"),
        ("forward: dsr", "1: not the same: balance: hash", "2: not the same: ipip: nftlb has no tunnels"),
    ),
    "real of two methods": (
        real("real = 10.0.0.11:80 masq", "real = 10.0.0.12:80 gate"),
        ("10.0.0.12:80", "4: not taken over: gate: forward is the same for the whole pool"),
    ),
    "real with a weight": (real("real = 10.0.0.11:80 masq 7"), ("weight: 7",)),
    "real of weight 0": (real("real = 10.0.0.11:80 masq 0"), ("admin: drain",)),
    "real with limits": (
        real("real = 10.0.0.11:80 masq 7 l:1 u:2"),
        ("weight: 7", "2: not taken over: l:1 of real = 10.0.0.11", "2: not taken over: u:2 of real = 10.0.0.11"),
    ),
    "real without a port": (real("real = 10.0.0.11 masq"), ('"10.0.0.11": 10.0.0.11 ', "port: 119")),
    "real with a port's name": (real("real = 10.0.0.11:https masq"), ("10.0.0.11:443",)),
    "real of a range": (real("real=10.0.0.254->10.0.1.1:80 masq 2"), ("10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.")),
    "real of a range downwards": (real("real=10.0.0.4->10.0.0.1:80 masq"), ("error 2: 10.0.0.4->10.0.0.1 is no rang",)),
    "real of another family": (real("real=[2001:db8::1]:80 masq"), ("error 2: [2001:db8::1] is of the wrong family",)),
    "real6 of another family": (real("real6=10.0.0.1:80 masq"), ("error 2: real6 = 10.0.0.1:80 masq: the wrong fami",)),
    "real without a method": (real("real = 10.0.0.11:80"), ("error 2: 10.0.0.11:80 is no real server; allowed: ADDR",)),
    "real of an odd method": (real("real = 10.0.0.11:80 nat"), ("error 2: 10.0.0.11:80 nat is no real server",)),
    "real with more": (real("real = 10.0.0.11:80 masq 1 odd"), ("error 2: odd can't stand here",)),
    "real with one text": (real('real = 10.0.0.11:80 masq 1 "odd"'), ("error 2: \"odd\" can't stand here",)),
    "real with a request of no use": (
        real('real = 10.0.0.11:80 masq 1 "a", "b"'),
        ("2: not taken over: request and receive of 10.0.0.11: service nntp",),
    ),
    "real twice": (
        real("real = 10.0.0.11:80 masq", "real = 10.0.0.11:80 masq"),
        ("4: not taken over: real server 10.0.0.11: it is there already",),
    ),
    "real of this host": (
        real("real = 10.0.0.11:80 masq", "real = 127.0.0.1:80 masq"),
        ("4: not taken over: real server 127.0.0.1: a loopback address",),
    ),
    "real with a request": (
        'virtual=192.0.2.80:80\n\treal=10.0.0.1:80 masq 2 "a b.html","fi\\d+ne"\n',
        ('path: "/a%20b.html"', 'body: "fi\\\\d+ne"', f"1: not the same: service http: {HTTP}"),
    ),
    "real with a request without an answer": (
        'virtual=192.0.2.80:80\n\treal=10.0.0.1:80 masq "/x", ""\n',
        ("http: {path: /x}", f"1: not the same: service http: {HTTP}"),
    ),
    "real with a request elsewhere": (
        'virtual=192.0.2.80:80\n\treal=10.0.0.1:80 masq 1 "http://198.51.100.1/", "ok"\n',
        ("tcp: {}", "1: not the same: service http: a check only opens", "2: not taken over: request http://198.51.10"),
    ),
    "real6": (six("real6 = [2001:db8:1::12]:80 masq 3"), ("2001:db8:1::12",)),
    "request": (
        checked('request = "x?a=1"'), ('path: "/x?a=1"', f"1: not the same: service http: {HTTP}"),
    ),
    "request without quotes": (checked("request = index.html"), ("error 3: index.html can't stand for request; allo",)),
    "request with a comment": (checked('request = "a#b"'), ("error 3: \"a can't stand for request",)),
    "request of nothing": (checked('request = ""'), ("error 3: \"\" can't stand for request",)),
    "request of no use": (inner('request = "x"'), (f"4: not taken over: request = x: {UNREAD}",)),
    "receive": (checked('receive = "it (is )?up"'), ('body: "it (is )?up"', f"1: not the same: service http: {HTTP}")),
    "receive that is no expression": (
        checked('receive = "("'),
        ("http: {path: /}", "1: not taken over: receive (: not a regular", f"1: not the same: service http: {HTTP}"),
    ),
    "receive of no use": (inner('receive = "x"'), (f"4: not taken over: receive = x: {UNREAD}",)),
    "checktype = connect": (checked("checktype = connect\nchecktimeout = 2\nnegotiatetimeout = 9"),
                            ("tcp: {}", "timeout: 2s", "5: not taken over: negotiatetimeout = 9: checktype connect d")),
    "checktype = connect, udp": (udp("checktype = connect"), ("icmp: {}", "timeout: 5s")),
    "checktype = negotiate": (checked("checktype = negotiate\nservice = nntp"), ('match: "^2"', "timeout: 30s")),
    "checktype = ping": (checked("checktype = ping\ncheckcount = 3\nfailurecount = 2\nchecktimeout = 2"),
                         ("icmp: {}", "fall: 6", "fast_interval: 2s", "4: not the same: checkcount = 3: fall 6")),
    "checktype = on": (checked("checktype = on"), ("192.0.2.80:80/tcp",)),
    "checktype = off": (checked("checktype = off"), ("admin: drain", "3: not the same: checktype = off: the servers ")),
    "checktype = external": (
        checked('checktype = external\ncheckcommand = "/bin/c d"\nchecktimeout = 8'),
        ('[/bin/sh, "-c", "\\"$@\\" \\"$NFTLB_ADDRESS\\" \\"$NFTLB_PORT\\" || exit 2", sh, "/bin/c d", 192.0.2.80, "80',
         "timeout: 8s", "2: not the same: checktype external: a shell makes 2"),
    ),
    "checktype = external, gate": (
        "virtual = 192.0.2.80:80\n\treal = 10.0.0.11:80 gate\n\tchecktype = external\n\tcheckcommand = /bin/c\n",
        ('\\"$NFTLB_ADDRESS\\" 80 || exit 2"', "1: not the same: balance: hash", "2: not the same: checktype external"),
    ),
    "checktype = external, six": (
        six("checktype = external\n\tcheckcommand = /bin/c").replace("\tservice = nntp\n", ""),
        ('\\"[$NFTLB_ADDRESS]\\" \\"$NFTLB_PORT\\" || exit 2", sh, /bin/c, "[2001:db8::80]", "80"]',
         "2: not the same: checktype external: a shell"),
    ),
    "checktype = external without": (checked("checktype = external"), ("3: not the same: checktype = external witho",)),
    "checktype = external-perl": (
        checked("checktype = external-perl\ncheckcommand = /bin/c.pl"),
        ("sh, /usr/bin/perl, /bin/c.pl, 192.0.2.80", "2: not the same: checktype external: a shell",
         "3: not the same: checktype = external-perl: perl is started"),
    ),
    "checktype = 3": (checked("checktype = 3\nservice = nntp"), ('match: "^2"', "3: not the same: checktype = 3: eve")),
    "checktype = 0": (checked("checktype = 0\nservice = nntp"), ('match: "^2"',)),
    "checktype = 3 of no service": (checked("checktype = 3\nservice = none"), ("tcp: {}",)),
    "checktype = odd": (checked("checktype = odd"), ("error 3: odd can't stand for checktype; allowed: connect, ext",)),
    "checkcommand unread": (inner("checkcommand = /bin/c"), (f"4: not taken over: checkcommand = /bin/c: {UNREAD}",)),
    "checktimeout = 3": (inner("checktimeout = 3"), ("timeout: 3s",)),
    "negotiatetimeout = 3": (inner("negotiatetimeout = 3"), ("timeout: 3s",)),
    "connecttimeout": (inner("connecttimeout = 3"), ("error 4: connecttimeout is no longer",)),
    "checkcount of no use": (inner("checkcount = 3"), (f"4: not taken over: checkcount = 3: {UNREAD}",)),
    "failurecount = 3": (inner("failurecount = 3"), ("fall: 3",)),
    "checkinterval = 3": (inner("checkinterval = 3"), ("4: not taken over: checkinterval = 3: without fork = yes",)),
    "checkinterval = 3, forking": (
        inner("checkinterval = 3") + "fork = yes\n", ("interval: 3s", "5: not taken over: fork = yes: nftlb checks"),
    ),
    "checkport = 81": (inner("checkport = 81"), ("port: 81",)),
    "checkport = 0": (inner("checkport = 0"), ("error 4: 0 can't stand for checkport; allowed: 1 to 65535",)),
    "checkport of no use": (checked("checktype = ping\ncheckport = 81"), ("icmp: {}", "4: not taken over: checkport ")),
    "login of no use": (inner('login = "x"'), (f"4: not taken over: login = x: {UNREAD}",)),
    "passwd of no use": (inner('passwd = "x"'), (f"4: not taken over: passwd = ...: {UNREAD}",)),
    "passwd without quotes": (inner("passwd = x"), ("error 4: ... can't stand for passwd; allowed: text in quotes",)),
    "database": (inner('database = "x"'), ("4: not taken over: database = x: no check of nftlb speaks SQL",)),
    "secret of no use": (inner('secret = "x"'), (f"4: not taken over: secret = ...: {UNREAD}",)),
    "load": (inner('load = "x"'), ("4: not taken over: load = x: ldirectord does not use the directive either",)),
    "scheduler = wrr": (inner("scheduler = wrr"), ()),
    "scheduler = rr": (inner("scheduler = rr"), ("balance: round-robin  # was rr",)),
    "scheduler = sh": (inner("scheduler = sh"), ("balance: hash",)),
    "scheduler = lc": (inner("scheduler = lc"), ("1: not the same: scheduler lc: round-robin counts no connections",)),
    "scheduler = 9": (inner("scheduler = 9"), ("error 4: 9 can't stand for scheduler; allowed: lowercase letters",)),
    "scheduler twice": (inner("scheduler = lc\nscheduler = wrr"), ("4: not taken over: scheduler = lc: line 5 says ",)),
    "persistent = 600": (inner("persistent = 600"), ("balance: hash", "4: not the same: persistent = 600: balance: h")),
    "persistent = 0": (inner("persistent = 0"), ("4: not taken over: persistent = 0: nothing lasts for 0 seconds",)),
    "netmask": (
        inner("persistent = 9\nnetmask = 255.255.255.0"),
        ("balance: hash", "4: not the same: persistent", "5: not taken over: netmask = 255.255.255.0: each address"),
    ),
    "netmask of an address": (
        inner("persistent = 9\nnetmask = 255.255.255.255"), ("balance: hash", "4: not the same: persistent"),
    ),
    "netmask without persistent": (inner("netmask = 255.255.255.0"), ("4: not taken over: netmask = 255.255.255.0: ",)),
    "netmask of another family": (inner("netmask = 24"), ("error 4: netmask = 24 is no netmask",)),
    "netmask of IPv6": (
        six("persistent = 9\n\tnetmask = 64"),
        ("balance: hash", "4: not the same: persistent = 9", "5: not taken over: netmask = 64: each address"),
    ),
    "netmask of IPv6, too long": (six("netmask = 129"), ("error 4: netmask = 129 is no netmask",)),
    "schedflags": (inner("schedflags = sh-port"), ("4: not taken over: schedflags = sh-port: nftlb's ways to balanc",)),
    "protocol = tcp": (inner("protocol = tcp"), ()),
    "protocol = udp": (inner("protocol = udp"), ("listen: 192.0.2.80:80/udp", "per: flow")),
    "protocol = fwm": (inner("protocol = fwm"), ("error 4: protocol = fwm: the virtual is no firewall mark",)),
    "protocol = tcp of a mark": (checked("protocol = tcp", "virtual = 7"), ("error 3: protocol = tcp: the virtual i",)),
    "protocol = sctp": (inner("protocol = sctp"), ("error 4: sctp can't stand for protocol; allowed: fwm, tcp, udp",)),
    "ops = yes": (inner("ops = yes"), ("4: not taken over: ops = yes: this is for udp alone",)),
    "ops = yes, udp": (udp("service = none\nops = yes"), ("192.0.2.80:80/udp",)),
    "ops = no": (inner("ops = no"), ()),
    "httpmethod = HEAD": (checked("httpmethod = head"), ("method: HEAD", f"1: not the same: service http: {HTTP}")),
    "httpmethod = POST": (checked("httpmethod = POST"), ("error 3: POST can't stand for httpmethod; allowed: GET, H",)),
    "httpmethod of no use": (inner("httpmethod = GET"), (f"4: not taken over: httpmethod = GET: {UNREAD}",)),
    "virtualhost": (checked('virtualhost = "a.b"'), ("host: a.b", f"1: not the same: service http: {HTTP}")),
    "virtualhost without quotes": (checked("virtualhost=a.b"), ("host: a.b", f"1: not the same: service http: {HTTP}")),
    "virtualhost unread": (inner("virtualhost=a.b"), (f"4: not taken over: virtualhost = a.b: {UNREAD}",)),
    "fallback": (inner("fallback = 10.0.0.9:82 gate"), ("fallback: 10.0.0.9:82",)),
    "fallback without a port": (inner("fallback = 10.0.0.9"), ("fallback: 10.0.0.9:80",)),
    "fallback of this host": (inner("fallback = 127.0.0.1:80"), ("4: not taken over: fallback 127.0.0.1: a loopback",)),
    "fallback before the one at the top": (
        "fallback = 10.0.0.8\n" + inner("fallback = 10.0.0.9"),
        ("fallback: 10.0.0.9:80", "1: not taken over: fallback = 10.0.0.8: no virtual needs it"),
    ),
    "fallback6": (six("fallback6 = [2001:db8::9]:82"), ('fallback: "[2001:db8::9]:82"',)),
    "fallback6 of another family": (inner("fallback6 = [2001:db8::9]:82"), ("error 4: fallback6 = [2001:db8::9]:82:",)),
    "fallback of IPv6": (six("fallback = 10.0.0.9"), ("error 4: fallback = 10.0.0.9: the wrong family",)),
    "fallbackcommand": (
        inner('fallbackcommand = "/bin/f -x"'),
        ('quorum_down: [/bin/f, "-x", start, 192.0.2.80:80, tcp]', 'quorum_up: [/bin/f, "-x", stop, 192.0.2.80:80, tc'),
    ),
    "fallbackcommand with words of a shell": (
        inner("fallbackcommand = /bin/f 'a b' >/dev/null"),
        ('[/bin/sh, "-c", "/bin/f \'a b\' >/dev/null \\"$@\\"", sh, start, 192.0.2.80:80, tcp]',),
    ),
    "quiescent = yes": (inner("quiescent = yes"), ("4: not the same: quiescent = yes: the connections of a server",)),
    "quiescent = no": (inner("quiescent = no"), ()),
    "quiescent = no before the one at the top": (
        "quiescent = yes\n" + inner("quiescent = no"), ("1: not taken over: quiescent = yes: no virtual needs it",),
    ),
    "emailalert": (inner("emailalert = a@b"), (f"4: not taken over: emailalert = a@b: {MAIL}",)),
    "emailalertfreq": (inner("emailalertfreq = 9"), (f"4: not taken over: emailalertfreq = 9: {MAIL}",)),
    "emailalertstatus": (inner("emailalertstatus = all"), (f"4: not taken over: emailalertstatus = all: {MAIL}",)),
    "smtp": (inner("smtp = 10.0.0.25"), (f"4: not taken over: smtp = 10.0.0.25: {MAIL}",)),
    "monitorfile": (inner('monitorfile = "/dev/null"'), ("4: not taken over: monitorfile = /dev/null: nftlb's log s",)),
    "cleanstop = yes": (inner("cleanstop = yes"), ("4: not taken over: cleanstop = yes: the rules stay",)),
    "cleanstop = no": (inner("cleanstop = no"), ()),
    "servicename": (inner("servicename = the news"), ("  the-news:\n",)),
    "comment": (inner("comment = of ours"), ("4: not taken over: comment = of ours",)),
    "service = dns": (
        udp('service = dns\nrequest = "www.example.com"\nreceive = "^192"'),
        ("dns: {name: www.example.com, type: A}", "4: not taken over: receive ^192: any answer without an error"),
    ),
    "service = dns, tcp": (
        checked('service = dns\nrequest = "a.b"\nreceive = "x"'), ("transport: tcp", "3: not taken over: receive x: a"),
    ),
    "service = dns, backwards": (
        udp('service = dns\nrequest = "192.0.2.9"\nreceive = "x"'),
        ('name: "9.2.0.192.in-addr.arpa", type: PTR', "4: not taken over: receive x: any"),
    ),
    "service = dns without a request": (udp("service = dns"), ('name: "."', "4: not the same: service dns without re")),
    "service = ftp": (checked("service = ftp"), ('match: "^220"', "3: not the same: service ftp: a check only reads")),
    "service = http": (checked("service = http"), ("http: {path: /}", f"3: not the same: service http: {HTTP}")),
    "service = https": (
        checked("service = https\nvirtualhost = a.b"),
        ("http: {path: /, host: a.b, tls: true, verify: false}", f"3: not the same: service https: {HTTP}"),
    ),
    "service = http_proxy": (checked("service = http_proxy"), ("tcp: {}", "3: not the same: service http_proxy: a ch")),
    "service = imap": (checked("service = imap"), ('match: "^\\\\* (?:OK|PREAUTH)"', "3: not the same: service imap:")),
    "service = imaps": (checked("service = imaps"), ("tcp: {}", "3: not the same: service imaps: a check only opens")),
    "service = ldap": (
        checked("service = ldap\nchecktimeout = 4\nnegotiatetimeout = 9"),
        ("tcp: {}", "timeout: 4s", "3: not the same: service ldap: a check only opens"),
    ),
    "service = ldaps": (checked("service = ldaps"), ("tcp: {}", "3: not the same: service ldaps: a check only opens")),
    "service = nntp": (checked("service = nntp"), ('tcp: {match: "^2"}',)),
    "service = mysql": (
        checked('service = mysql\nlogin = "u"\npasswd = "p"\ndatabase = "d"\nrequest = "SELECT 1"'),
        ("tcp: {}", "3: not the same: service mysql: a check only opens", "4: not taken over: login = u: service mysql",
         "5: not taken over: passwd = ...", "6: not taken over: database = d: no", "7: not taken over: request = SELE"),
    ),
    "service = none": (checked("service = none"), ("10.0.0.11:80",)),
    "service = oracle": (checked("service = oracle"), ("tcp: {}", "3: not the same: service oracle: a check only ope")),
    "service = pop": (checked("service = pop"), ('match: "^\\\\+OK"', "3: not the same: service pop: a check only re")),
    "service = pops": (checked("service = pops"), ("tcp: {}", "3: not the same: service pops: a check only opens")),
    "service = radius": (
        udp('service = radius\nsecret = "s3"\nlogin = "u"\npasswd = "p"\nnegotiatetimeout=3\nchecktimeout=2'),
        ("radius: {secret: s3}", "timeout: 2s", "4: not the same: service radius: a check sends Status-Server",
         "6: not taken over: login = u: service radius", "7: not taken over: passwd = ...: service radius"),
    ),
    "service = radius without a secret": (udp("service = radius"), ("4: not taken over: service radius without secr",)),
    "service = pgsql": (checked("service = pgsql"), ("tcp: {}", "3: not the same: service pgsql: a check only opens")),
    "service = sip": (udp('service = sip\nlogin = "u@a.b"'), ('sip: {status: [200], uri: "sip:u@a.b"}',)),
    "service = sip, tcp": (checked("service = sip"), ("sip: {status: [200], transport: tcp}",)),
    "service = smtp": (checked("service = smtp"), ('match: "^220"', "3: not the same: service smtp: a check only rea")),
    "service = submission": (checked("service = submission"), ('match: "^220"', "3: not the same: service submission")),
    "service = simpletcp": (
        checked('service = simpletcp\nrequest = "PING\\n"\nreceive = "PONG"'), ('tcp: {send: "PING\\n", match: PONG}',),
    ),
    "service = simpletcp, udp": (
        udp('service = simpletcp\nrequest = "/PING"\nreceive = "PONG"'), ("udp: {send: PING, match: PONG}",),
    ),
    "service = simpletcp without": (checked("service = simpletcp"), ("tcp: {}", "3: not the same: service simpletcp ")),
    "service = odd": (checked("service = odd"), ("error 3: odd can't stand for service; allowed: dns, ftp",)),
    "service by its port": (checked("checktype = negotiate", "virtual = 192.0.2.80:119"), ('match: "^2"',)),
    "unknown": (inner("odd = 3"), ("error 4: odd is no directive in a virtual; allowed: DIRECTIVE = VALUE",)),
    "at the other level": (inner("fork = yes"), ("error 4: fork is no directive in a virtual; allowed: fork outside",)),
    "after an empty line": (inner("#") + "\n\tops = no\n", ("error 6: ops = no is indented, but belongs to no virtu",)),
    "by three blanks": (inner("#") + "   ops = no\n", ("error 5: ops = no is indented, but belongs to no virtual",)),
    "a line of blanks": (inner("#") + "        \n", ('error 5: "" is no directive in a virtual',)),
    "a comment in between": (inner("scheduler = lc") + "# x\n\t# y\n\tscheduler = rr # z\n",
                             ("4: not taken over: scheduler = lc: line 7 says scheduler = rr", "# was rr")),
}  # fmt: skip
TABLE = {**{f"top: {name}": row for name, row in TOP_TABLE.items()},
         **{f"virtual: {name}": row for name, row in VIRTUAL_TABLE.items()}}  # fmt: skip

# What ldirectord takes, or refuses, other than we do.
STRICTER: set[str] = set()


def problems(text: str) -> list[str]:
    """The errors and remarks of an import, each with its line."""
    try:
        return [f"{one.line}: {one.message}" for one in from_ldirectord(text, "cf").remarks]
    except ConfigError as error:
        return [f"error {one.line}: {one.message}" for one in error.problems]


REMARK = re.compile(r"(?:error )?[0-9]+: ")


@pytest.mark.parametrize("name", TABLE)
def test_table(name: str) -> None:
    """Each directive becomes what its row says, and nothing else is said of it; the result is valid."""
    text, expected = TABLE[name]
    said = [one for one in expected if REMARK.match(one)]
    written = [one for one in expected if one not in said]
    found = problems(text)
    assert len(said) == len(found), found
    for one in said:
        assert any(line.startswith(one) for line in found), (one, found)
    if not any(line.startswith("error ") for line in found):
        became = from_ldirectord(text, "cf").text
        assert parse(became).pools
        for one in written:
            assert one in became, became
        if not written:
            assert parse(became) == parse(from_ldirectord(without(text), "cf").text)


def without(text: str) -> str:
    """The file without what its row is about, where that is all that the file has beyond the usual."""
    for base in (top("#"), inner("#")):
        if set(base.split("\n")) - {"#", "    #"} <= set(text.split("\n")):
            return base
    return text


def test_every_word_of_ldirectord_is_in_the_table() -> None:
    """At each level where its source looks for the word; so a word that a new version brings is missed here."""
    reader = ldirectord.source().partition("\nsub read_config\n")[2].partition("\nsub _ld_read_config_virtual")[0]
    words: dict[str, set[str]] = {"linedata": set(), "rcmd": set()}
    for level, word, also_six in re.findall(r"\$(linedata|rcmd)\s*=~\s*/\^\(?(\w+?)(\(6\)\?)?(?=[^\w(])", reader):
        words[level] |= {word, f"{word}6"} if also_six else {word}
    assert {"virtual6", "autoreload", "timeout"} < words["linedata"]
    assert {"real6", "ops", "fallback6"} < words["rcmd"]
    gone = {"connecttimeout", "timeout"}
    assert words["linedata"] - gone == set(TOP)
    assert words["rcmd"] - gone == set(VIRTUAL)
    for level, table in (("linedata", TOP_TABLE), ("rcmd", VIRTUAL_TABLE)):
        assert set() == words[level] - {name.split()[0] for name in table}


def test_every_check_of_ldirectord_is_in_the_table() -> None:
    """Each service and each checktype that its source compares with."""
    reader = ldirectord.source().partition("\nsub read_config\n")[2].partition("\nsub _ld_read_config_virtual")[0]
    compared = set(re.findall(r'\$1 eq "([\w-]+)"', reader)) - {"yes", "no", "tcp", "udp", "fwm"}
    assert {"simpletcp", "external-perl"} < compared
    rows = {name.split()[2].strip(",") for name in VIRTUAL_TABLE if name.startswith(("service = ", "checktype = "))}
    assert set() == compared - rows
    assert CHECKTYPES | SERVICES == compared


def test_ldirectord_judges_the_table(tmp_path: Path) -> None:
    """It refuses what is an error here, and takes the rest; where that is not so, the difference is known."""
    judged = ldirectord.verdicts({name: text for name, (text, _) in TABLE.items()}, tmp_path)
    ours = {name: any(one.startswith("error") for one in expected) for name, (_, expected) in TABLE.items()}
    differing = {name for name in TABLE if bool(judged[name]) != ours[name]}
    assert STRICTER == differing, {name: judged[name] for name in differing ^ STRICTER}


# --- ldirectord's own examples ----------------------------------------------------------------------------------------


def examples() -> dict[str, str]:
    """The virtuals of ldirectord's sample, those too that are commented out, each as a file."""
    sample = Path(data("usr/share/doc/ldirectord/examples/ldirectord.cf")).read_text()
    found = {}
    lines = iter(re.sub(r"(?m)^#+(?=virtual|\t)", "", sample).split("\n"))
    for number, line in enumerate(lines, 1):
        if line.startswith("virtual"):
            block = itertools.takewhile(lambda one: one.startswith(("\t", "#")), lines)
            found[f"{number} {line}"] = "\n".join([line, *block, ""])
    return found


def test_ldirectord_judges_its_examples(tmp_path: Path) -> None:
    """What it takes can be imported, and what it refuses is an error, but for what is named here."""
    cases = {**examples(), "all": Path(data("usr/share/doc/ldirectord/examples/ldirectord.cf")).read_text()}
    assert len(cases) > 15
    judged = ldirectord.verdicts(cases, tmp_path)
    for name, text in cases.items():
        found = problems(text)
        if "=sql01" in name + text and name != "all":  # ldirectord would ask who that is; an import does not
            assert "gate 10: sql01 and sql03 is no address" in " ".join(found)
        elif "::5060" in text and name != "all":  # ldirectord takes 5060 for the address 0.0.19.196
            assert "" == judged[name]
            assert found[0].startswith("error 2: 192.168.6.2::5060 gate is no real server")
        else:
            left_out = "virtual=1" in name.split()
            assert ("", left_out) == (judged[name], any(one.startswith("error") for one in found)), name


# --- what is no directive ---------------------------------------------------------------------------------------------

WHOLE = (Path(__file__).parent / "import/everything.cf").read_text()


@pytest.mark.parametrize(
    "written",
    [f"\ufeff{WHOLE}", WHOLE.replace("\n", "\r\n"), WHOLE.replace("\n", " \t\n"), f"{WHOLE}\n\n# the end"],
    ids=["byte order mark", "line ends of Windows", "blanks at the end of lines", "more below"],
)
def test_what_means_nothing(written: str) -> None:
    """The same comes of the file with it and without it."""
    written = written.replace("\n \t\n", "\n\n")  # a line of blanks is an error to ldirectord
    assert from_ldirectord(WHOLE) == from_ldirectord(written)


def test_names_of_hosts() -> None:
    """They are named and left out, and the rest is there: an import asks no name server."""
    text = (
        "virtual = www.example.com:80\n\treal = 10.0.0.1:80 masq\n\n"
        "fallback = sorry.example.com\n"
        "virtual = 192.0.2.80:80\n\treal = a.example.com:80 masq\n\treal = 10.0.0.1->b:80 masq\n"
        "\treal = 10.0.0.2:80 masq\n\tchecktype = on\n"
    )
    assert [
        "1: not taken over: virtual = www.example.com:80, with its 1 real servers: www.example.com is no address",
        "4: not taken over: fallback = sorry.example.com: sorry.example.com is no address",
        "6: not taken over: real = a.example.com:80 masq: a.example.com is no address",
        "7: not taken over: real = 10.0.0.1->b:80 masq: b is no address",
    ] == [one.partition(";")[0] for one in problems(text)]
    (pool,) = parse(from_ldirectord(text).text).pools
    assert ["10.0.0.2"] == [str(one.address) for one in pool.backends]


@pytest.mark.parametrize(
    "text", [checked('passwd = "s3cret"'), udp('service = sip\nsecret = "s3cret"\npasswd = s3cret')]
)
def test_no_password_is_shown(text: str) -> None:
    """Remarks go to terminals and logs."""
    assert "..." in " ".join(problems(text))
    assert "s3cret" not in " ".join(problems(text))


@pytest.mark.parametrize(("status", "expected"), [(0, 0), (1, 2), (2, 2), (7, 2)])
def test_a_program_gets_what_ldirectord_gives_it(status: int, expected: int, tmp_path: Path) -> None:
    """The service and the server as its arguments; and every status but 0 is a failure."""
    program = tmp_path / "the check"
    program.write_text(f'#!/bin/sh\necho "$@" >"{tmp_path}/said"\nexit {status}\n')
    program.chmod(0o755)
    (pool,) = parse(from_ldirectord(checked(f'checktype = external\ncheckcommand = "{program}"')).text).pools
    found = {"NFTLB_ADDRESS": "10.0.0.11", "NFTLB_PORT": "80"}
    argv = pool.health[0].check.argv  # type: ignore[union-attr]
    assert expected == subprocess.run(argv, env=found, check=False).returncode
    assert "192.0.2.80 80 10.0.0.11 80\n" == (tmp_path / "said").read_text()


def test_the_command_of_a_fallback_gets_what_ldirectord_gives_it(tmp_path: Path) -> None:
    """It may have words of its own, and of a shell."""
    program = f"echo 'a  b' >{tmp_path}/said"
    (pool,) = parse(from_ldirectord(inner(f"fallbackcommand = {program}")).text).pools
    assert b"" == subprocess.run(pool.hooks.quorum_down, check=True, capture_output=True).stdout
    assert "a  b start 192.0.2.80:80 tcp\n" == (tmp_path / "said").read_text()


def test_the_order_of_servers_decides_no_check() -> None:
    """Most have the same one, and keep it; the other is named."""
    servers = [f'real = 10.0.0.{one}:80 masq 1 "/{"other" if one == 1 else "same"}", ""' for one in (1, 2, 3)]
    for order in itertools.permutations(servers):
        text = "\n\t".join(["virtual = 192.0.2.80:80", *order]) + "\n"
        (pool,) = parse(from_ldirectord(text, "cf").text).pools
        assert ["/same"] == [one.check.path for one in pool.health]  # type: ignore[union-attr]
        assert [order.index(servers[0]) + 2] == [
            one.line for one in from_ldirectord(text, "cf").remarks if "differ from" in one.message
        ]


def test_servers_that_are_listeners() -> None:
    """A server or a fallback where a virtual listens: left out, and named."""
    text = (
        "virtual = 192.0.2.80:80\n\treal = 192.0.2.80:80 masq\n\treal = 192.0.2.81:80 masq\n"
        "\treal = 10.0.0.1:80 masq\n\tfallback = 192.0.2.80:80\n\tchecktype = on\n"
        "virtual = 192.0.2.81:80\n\treal = 192.0.2.81:81 masq\n\tchecktype = on\n"
    )
    assert [
        "2: not taken over: real server 192.0.2.80: a listener is there, and nothing is balanced twice",
        "3: not taken over: real server 192.0.2.81: a listener is there, and nothing is balanced twice",
        "5: not taken over: fallback 192.0.2.80: a listener is there, and nothing is balanced twice",
    ] == problems(text)
    first, second = parse(from_ldirectord(text).text).pools
    assert (["10.0.0.1"], ["192.0.2.81"]) == tuple(
        [str(one.address) for one in pool.backends] for pool in (first, second)
    )


def test_too_many_servers() -> None:
    """More than there are conntrack zones: an error, with the virtual at which they end."""
    ranges = "".join(f"\treal = 10.{one}.0.0->10.{one}.3.255:80 masq\n" for one in range(64))
    assert problems(f"virtual = 192.0.2.80:80\n{ranges}")[0].startswith(
        "error 1: virtual = 192.0.2.80:80: the servers up"
    )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration in a file that `nftlb check` takes, remarks with their lines on standard error."""
    path, written = tmp_path / "ldirectord.cf", tmp_path / "out.yaml"
    path.write_text(inner("comment = of ours"))
    assert 0 == main(["import", "ldirectord", str(path), "-o", str(written)])
    assert ("", f"{path}:4: not taken over: comment = of ours\n") == tuple(capsys.readouterr())
    assert 0 == main(["check", str(written)])
    path.write_text(inner("odd = 1"))
    assert 1 == main(["import", "ldirectord", str(path)])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith(f"{path}:4:1: odd is no directive in a virtual")


# --- whatever is written ----------------------------------------------------------------------------------------------

ONE = "virtual=192.0.2.80:80\n"
HOSTILE = {
    "one word": "x" * 5_000_000,
    "one text": ONE + '\trequest="' + "x" * 5_000_000 + '"\n',
    "quotes": (ONE + "\treal=10.0.0.1 masq " + '" ' * 30_000 + "\n") * 50,
    "texts": ONE + "\treal=10.0.0.1 masq " + '"a","b" ' * 8_000 + "\n",
    "arrows": ONE + "\treal=" + "a->" * 20_000 + " masq\n",
    "colons": "fallback=" + "a:" * 30_000 + "\n" + top("#"),
    "blanks": "fallback=a" + " " * 60_000 + "b c\n" + top("#"),
    "digits": f"checktimeout={'9' * 60_000}\n{top('#')}",
    "a mark": f"virtual={'9' * 60_000}\n",
    "comments": "#\n" * 1_000_000,
    "virtuals": "".join(f"virtual=10.{one >> 8}.{one & 255}.1:80\n\treal=192.0.2.1 masq\n" for one in range(5_000)),
    "servers": top("#") + "".join(f"\treal=10.1.{one >> 8}.{one & 255}:80 masq\n" for one in range(5_000)),
    "requests": top("#") + "".join(f'\treal=10.1.{one >> 8}.{one & 255} masq "a{one}","b"\n' for one in range(2_000)),
    "ranges": top("#") + "\treal=10.1.0.0->10.1.3.255:80 masq\n" * 20,
    "repeated": top("#") + "\tcomment = x\n" * 50_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_file_takes_long(name: str) -> None:
    """Whatever comes of it: an error, or pools."""
    began = time.process_time()
    problems(HOSTILE[name])
    assert time.process_time() - began < 30


LINES = st.sampled_from(
    sorted(
        {
            line.strip()
            for text, _ in VIRTUAL_TABLE.values()
            for line in text.split("\n")
            if line.startswith((" ", "\t"))
        }
    )
)
HEADS = st.sampled_from(
    ["virtual=192.0.2.80:80", "virtual=192.0.2.53:53", "virtual=192.0.2.1:0", "virtual6=[2001:db8::80]:80", "virtual=7",
     "virtual=127.0.0.1:80", "virtual=www.example.com:80", "virtual6=[fe80::1]:5060", "virtual=10.0.0.11:80"]
)  # fmt: skip
TOPS = st.sampled_from(sorted({text.split("\n")[0] for text, _ in TOP_TABLE.values()} - {""}))
SERVERS = st.sampled_from(
    ["real=10.0.0.11:80 masq", "real=10.0.0.12->10.0.0.14:81 gate 0", "real=10.0.0.15 ipip 70000",
     "real=127.0.0.1:80 gate", 'real=10.0.0.16:53 masq 2 "a","b"', "real6=[2001:db8:1::1]:80 masq"]
)  # fmt: skip
BLOCKS = st.builds(
    lambda head, servers, lines: "\n\t".join([head, *servers, *lines]) + "\n",
    HEADS, st.lists(SERVERS, max_size=3), st.lists(LINES, max_size=4),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(st.lists(TOPS | BLOCKS, min_size=1, max_size=4))
def test_any_file_comes_to_a_valid_one(parts: list[str]) -> None:
    """Unless it is refused; and every remark is in its text."""
    try:
        found = from_ldirectord("\n".join(parts), "cf")
    except ConfigError as error:
        assert all(one.file == "cf" for one in error.problems)  # noqa: PT017 - it need not be raised
        return
    assert parse(found.text).pools
    assert all(f"(line {remark.line})" in found.text for remark in found.remarks)
