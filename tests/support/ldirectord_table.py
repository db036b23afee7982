"""The directives of ldirectord, at each level that allows them, and the result of their import.

A row has a file and the parts of its result: text of nftlb's configuration, remarks and errors with their lines.
"""

from __future__ import annotations

MAIL = "hooks can send mail"
UNREAD = "service nntp does not use the directive"
HTTP = "nftlb counts a redirect as a failure"


def top(said: str) -> str:
    """A file with a directive before its virtual, whose check (nntp's greeting) is the same in both programs."""
    return f"{said}\nvirtual = 192.0.2.80:80\n\treal = 10.0.0.11:80 masq\n\tservice = nntp\n"


def inner(said: str) -> str:
    """A file with a directive in its virtual, from line 4 on."""
    more = "\n".join(f"    {line}" for line in said.split("\n"))
    return f"virtual = 192.0.2.80:80\n    real = 10.0.0.11:80 masq\n    service = nntp\n{more}\n"


def checked(said: str, head: str = "virtual = 192.0.2.80:80") -> str:
    """A file with a directive in its virtual, from line 3 on, without other directives about checks."""
    more = "\n".join(f"\t{line}" for line in said.split("\n"))
    return f"{head}\n\treal = 10.0.0.11:80 masq\n{more}\n"


def udp(said: str) -> str:
    return checked(f"protocol = udp\n{said}")


def real(said: str, *more: str) -> str:
    """A file with a virtual on line 1, this server on line 2, and then a check and more lines."""
    return "\n".join(["virtual = 192.0.2.80:80", f"\t{said}", "\tservice = nntp", *(f"\t{line}" for line in more), ""])


def six(said: str) -> str:
    return f"virtual6 = [2001:db8::80]:80\n\treal6 = [2001:db8:1::11]:80 masq\n\tservice = nntp\n\t{said}\n"


Row = tuple[str, tuple[str, ...]]

# Each row has the file and the parts of the result: "4: ..." is the beginning of a remark on line 4, "error 4: ..."
# of an error; other parts are in the YAML. There are no other remarks.
TOP_TABLE: dict[str, Row] = {
    "checktimeout = 3": (top("checktimeout = 3"), ("timeout: 3s",)),
    "checktimeout = 0": (top("checktimeout = 0"), ("error 1: 0 is not a value for checktimeout",)),
    "checktimeout = 100000": (top("checktimeout = 100000"), ("timeout: 86400s", "1: not the same: checktimeout = 1")),
    "negotiatetimeout = 7": (top("checktimeout = 3\nnegotiatetimeout = 7"), ("timeout: 7s", "1: not taken over: chec")),
    "checkinterval = 4": (top("checkinterval = 4"), ("interval: 4s", "fast_interval: 4s")),
    "checkinterval = x": (top("checkinterval = x"), ("error 1: x is not a value for checkinterval; allowed: a numbe",)),
    "checkcount = 3": (top("checkcount = 3"), ("1: not taken over: checkcount = 3: no virtual uses it",)),
    "failurecount = 3": (top("failurecount = 3"), ("fall: 3",)),
    "failurecount = 999": (top("failurecount = 999"), ("fall: 255", "1: not the same: failurecount = 999")),
    "fallback = 10.0.0.9:81": (top("fallback = 10.0.0.9:81"), ("fallback: 10.0.0.9:81",)),
    "fallback = 10.0.0.9": (top("fallback = 10.0.0.9 masq"), ("fallback: 10.0.0.9:80",)),
    "fallback = 127.0.0.1:80": (top("fallback = 127.0.0.1:80"), ("1: not taken over: fallback 127.0.0.1: a loopback",)),
    "fallback = 10.0.0.9 nat": (top("fallback = 10.0.0.9 nat"), ("error 1: fallback = 10.0.0.9 nat is not a fallbac",)),
    "fallback6 unused": (top("fallback6 = [2001:db8::9]:80"), ("1: not taken over: fallback6 = [2001:db8::9]:80: no",)),
    "fallback6": ("fallback6 = [2001:db8::9]:81\n" + six("#"), ('fallback: "[2001:db8::9]:81"',)),
    "fallbackcommand": (
        top("fallbackcommand = /bin/f -x"),
        ('quorum_down: [/bin/f, "-x", start, 192.0.2.80:80, tcp]', ),
    ),
    "quiescent = yes": (top("quiescent = yes"), ("1: not the same: quiescent = yes: nftlb ends the connections",)),
    "quiescent = no": (top("quiescent = no"), ()),
    "quiescent = maybe": (top("quiescent = maybe"), ("error 1: maybe is not a value for quiescent; allowed: no, yes",)),
    "emailalert": (top('emailalert = "a@example.com"'), (f"1: not taken over: emailalert = a@example.com: {MAIL}",)),
    "emailalertfreq": (top("emailalertfreq = 9"), (f"1: not taken over: emailalertfreq = 9: {MAIL}",)),
    "emailalertfreq = x": (top("emailalertfreq = x"), ("error 1: x is not a value for emailalertfreq",)),
    "emailalertstatus": (top("emailalertstatus = none"), (f"1: not taken over: emailalertstatus = none: {MAIL}",)),
    "emailalertstatus = odd": (top("emailalertstatus = odd"), ("error 1: odd is not a value for emailalertstatus",)),
    "emailalertfrom": (top("emailalertfrom = a@b"), (f"1: not taken over: emailalertfrom = a@b: {MAIL}",)),
    "cleanstop = yes": (top("cleanstop = yes"), ("1: not taken over: cleanstop = yes: the rules stay",)),
    "cleanstop = no": (top("cleanstop = no"), ()),
    "smtp": (top("smtp = mail.example.com"), (f"1: not taken over: smtp = mail.example.com: {MAIL}",)),
    "autoreload = yes": (top("autoreload = yes"), ("1: not taken over: autoreload = yes: nftlb reads its file",)),
    "autoreload = no": (top("autoreload=no"), ()),
    "callback": (top('callback = "/bin/c"'), ("1: not taken over: callback = /bin/c: nftlb has no hook",)),
    "callback without quotes": (top("callback = /bin/c"), ("error 1: /bin/c is not a value for callback; allowed: t",)),
    "logfile": (top('logfile = "local0"'), ("1: not taken over: logfile = local0: nftlb's log",)),
    "execute": (
        top("execute = a\nexecute = b"),
        ("1: not taken over: execute = a: import that", "2: not taken over: execute = b: import that"),
    ),
    "fork = no": (top("fork = no"), ("1: not taken over: fork = no: nftlb checks all",)),
    "fork = yes": (top("fork = yes"), ("1: not taken over: fork = yes: nftlb checks all backends side by side",)),
    "supervised": (top("supervised"), ("1: not taken over: supervised = yes: `nftlb run`",)),
    "supervised = no": (top("supervised = no"), ("1: not taken over: supervised = no: `nftlb run`",)),
    "supervised = x": (top("supervised = x"), ("error 1: x is not a value for supervised",)),
    "readdquiescent = yes": (top("readdquiescent = yes"), ("1: not taken over: readdquiescent = yes: nftlb has",)),
    "readdquiescent = no": (top("readdquiescent = no"), ()),
    "maintenancedir": (top("maintenancedir = /m"), ("1: not taken over: maintenancedir = /m: `nftlb maintenance",)),
    "connecttimeout": (top("connecttimeout = 3"), ("error 1: connecttimeout is no longer a directive of ldirectord",)),
    "timeout": (top("timeout = 3"), ("error 1: timeout is no longer a directive of ldirectord",)),
    "again": (top("failurecount = 2\nfailurecount = 3"), ("fall: 3", "1: not taken over: failurecount = 2: line 2 re")),
    "unknown": (top("odd = 3"), ("error 1: odd is not a directive outside of a virtual; allowed: DIRECTIVE = VALUE",)),
    "at the other level": (top('request = "x"'), ("error 1: request is not a directive outside of a virtual; allowe",)),
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
        ("1: not taken over: virtual = 7, with its 1 real servers: pools select packets by address",),
    ),
    "virtual of a mark, mistaken": (
        checked("service = http", "virtual = 192.0.2.1") + checked("service = none"),
        ("1: not taken over: virtual = 192.0.2.1, which ldirectord reads as the mark 192, with its 1",),
    ),
    "virtual of nothing": (checked("service = none", "virtual = "), ('error 1: "" is not a value for virtual',)),
    "virtual6": (six("# none"), ('listen: "[2001:db8::80]:80/tcp"',)),
    "virtual6 of a mark": (six("#") + "virtual6 = 7\n\treal6 = [2001:db8::1]:80 gate\n", ("5: not taken over: virtu",)),
    "virtual6 of another family": (
        "virtual6 = 192.0.2.80:80\n\treal6 = [2001:db8:1::11]:80 masq\n\tservice = nntp\n",
        ("error 1: 192.0.2.80 is of the wrong family",),
    ),
}  # fmt: skip
VIRTUAL_TABLE: dict[str, Row] = {
    "real masq": (real("real = 10.0.0.11:81 masq"), ("source: keep", "10.0.0.11:81")),
    "real gate": (real("real = 10.0.0.11:80 gate"), ("forward: dsr", "1: not the same: balance: hash with key")),
    "real gate with a port": (
        real("real = 10.0.0.11:81 gate"),
        ("port: 81", "1: not the same: balance: hash", "2: not the same: port 81: with dsr packets keep their port"),
    ),
    "real ipip": (
        real("real = 10.0.0.11:80 ipip"),
        ("encap: ipip", "1: not the same: balance: hash"),
    ),
    "real of two methods": (
        real("real = 10.0.0.11:80 masq", "real = 10.0.0.12:80 gate"),
        ("10.0.0.12:80", "4: not taken over: gate: forward and encap are the same for the whole pool"),
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
    "real of a range downwards": (real("real=10.0.0.4->10.0.0.1:80 masq"), ("error 2: 10.0.0.4->10.0.0.1 is not a r",)),
    "real of another family": (real("real=[2001:db8::1]:80 masq"), ("error 2: [2001:db8::1] is of the wrong family",)),
    "real6 of another family": (real("real6=10.0.0.1:80 masq"), ("error 2: real6 = 10.0.0.1:80 masq: the wrong fami",)),
    "real without a method": (real("real = 10.0.0.11:80"), ("error 2: 10.0.0.11:80 is not a real server; allowed: A",)),
    "real of an odd method": (real("real = 10.0.0.11:80 nat"), ("error 2: 10.0.0.11:80 nat is not a real server",)),
    "real with more": (real("real = 10.0.0.11:80 masq 1 odd"), ("error 2: odd does not fit here",)),
    "real with one text": (real('real = 10.0.0.11:80 masq 1 "odd"'), ('error 2: "odd" does not fit here',)),
    "real with a request of no use": (
        real('real = 10.0.0.11:80 masq 1 "a", "b"'),
        ("2: not taken over: request and receive of 10.0.0.11: service nntp",),
    ),
    "real twice": (
        real("real = 10.0.0.11:80 masq", "real = 10.0.0.11:80 masq"),
        ("4: not taken over: real server 10.0.0.11: the pool has this backend already",),
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
    "request without quotes": (checked("request = index.html"), ("error 3: index.html is not a value for request; a",)),
    "request with a comment": (checked('request = "a#b"'), ('error 3: "a is not a value for request',)),
    "request of nothing": (checked('request = ""'), ('error 3: "" is not a value for request',)),
    "request of no use": (inner('request = "x"'), (f"4: not taken over: request = x: {UNREAD}",)),
    "receive": (checked('receive = "it (is )?up"'), ('body: "it (is )?up"', f"1: not the same: service http: {HTTP}")),
    "receive that is not an expression": (
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
         "timeout: 8s", "2: not the same: checktype external: a shell turns the"),
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
    "checktype = 3": (checked("checktype = 3\nservice = nntp"), ('match: "^2"', "3: not the same: checktype = 3: nft")),
    "checktype = 0": (checked("checktype = 0\nservice = nntp"), ('match: "^2"',)),
    "checktype = 3 of no service": (checked("checktype = 3\nservice = none"), ("tcp: {}",)),
    "checktype = odd": (checked("checktype = odd"), ("error 3: odd is not a value for checktype; allowed: connect, ",)),
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
    "checkport = 0": (inner("checkport = 0"), ("error 4: 0 is not a value for checkport; allowed: 1 to 65535",)),
    "checkport of no use": (checked("checktype = ping\ncheckport = 81"), ("icmp: {}", "4: not taken over: checkport ")),
    "login of no use": (inner('login = "x"'), (f"4: not taken over: login = x: {UNREAD}",)),
    "passwd of no use": (inner('passwd = "x"'), (f"4: not taken over: passwd = ...: {UNREAD}",)),
    "passwd without quotes": (inner("passwd = x"), ("error 4: ... is not a value for passwd; allowed: text in quote",)),
    "database": (inner('database = "x"'), ("4: not taken over: database = x: no check of nftlb speaks SQL",)),
    "secret of no use": (inner('secret = "x"'), (f"4: not taken over: secret = ...: {UNREAD}",)),
    "load": (inner('load = "x"'), ("4: not taken over: load = x: ldirectord does not use the directive either",)),
    "scheduler = wrr": (inner("scheduler = wrr"), ()),
    "scheduler = rr": (inner("scheduler = rr"), ("balance: round-robin  # was rr",)),
    "scheduler = sh": (inner("scheduler = sh"), ("balance: hash",)),
    "scheduler = lc": (inner("scheduler = lc"), ("1: not the same: scheduler lc: round-robin does not count connect",)),
    "scheduler = 9": (inner("scheduler = 9"), ("error 4: 9 is not a value for scheduler; allowed: lowercase letters",)),
    "scheduler twice": (inner("scheduler = lc\nscheduler = wrr"), ("4: not taken over: scheduler = lc: line 5 repla",)),
    "persistent = 600": (inner("persistent = 600"), ("balance: hash", "4: not the same: persistent = 600: balance: h")),
    "persistent = 0": (inner("persistent = 0"), ("4: not taken over: persistent = 0: a persistence of 0 seconds has",)),
    "netmask": (
        inner("persistent = 9\nnetmask = 255.255.255.0"),
        ("balance: hash", 'key: "source/24"', "4: not the same: persistent"),
    ),
    "netmask of an address": (
        inner("persistent = 9\nnetmask = 255.255.255.255"), ("balance: hash", "4: not the same: persistent"),
    ),
    "netmask without persistent": (inner("netmask = 255.255.255.0"), ("4: not taken over: netmask = 255.255.255.0: ",)),
    "netmask of another family": (inner("netmask = 24"), ("error 4: netmask = 24 is not a netmask",)),
    "netmask of IPv6": (
        six("persistent = 9\n\tnetmask = 64"),
        ("balance: hash", 'key: "source/64"', "4: not the same: persistent = 9"),
    ),
    "netmask of IPv6, too long": (six("netmask = 129"), ("error 4: netmask = 129 is not a netmask",)),
    "schedflags": (inner("scheduler = sh\nschedflags = sh-port, sh-fallback"), ("key: source-port",)),
    "schedflags of another scheduler": (inner("schedflags = sh-port"), ("4: not taken over: schedflags = sh-port",)),
    "protocol = tcp": (inner("protocol = tcp"), ()),
    "protocol = udp": (inner("protocol = udp"), ("listen: 192.0.2.80:80/udp", "per: flow")),
    "protocol = fwm": (inner("protocol = fwm"), ("error 4: protocol = fwm: the virtual is not a firewall mark",)),
    "protocol = tcp of a mark": (checked("protocol = tcp", "virtual = 7"), ("error 3: protocol = tcp: the virtual i",)),
    "protocol = sctp": (inner("protocol = sctp"), ("error 4: sctp is not a value for protocol; allowed: fwm, tcp, u",)),
    "ops = yes": (inner("ops = yes"), ("4: not taken over: ops = yes: only udp has this option",)),
    "ops = yes, udp": (udp("service = none\nops = yes"), ("192.0.2.80:80/udp",)),
    "ops = no": (inner("ops = no"), ()),
    "httpmethod = HEAD": (checked("httpmethod = head"), ("method: HEAD", f"1: not the same: service http: {HTTP}")),
    "httpmethod = POST": (checked("httpmethod = POST"), ("error 3: POST is not a value for httpmethod; allowed: GET",)),
    "httpmethod of no use": (inner("httpmethod = GET"), (f"4: not taken over: httpmethod = GET: {UNREAD}",)),
    "virtualhost": (checked('virtualhost = "a.b"'), ("host: a.b", f"1: not the same: service http: {HTTP}")),
    "virtualhost without quotes": (checked("virtualhost=a.b"), ("host: a.b", f"1: not the same: service http: {HTTP}")),
    "virtualhost unread": (inner("virtualhost=a.b"), (f"4: not taken over: virtualhost = a.b: {UNREAD}",)),
    "fallback": (inner("fallback = 10.0.0.9:82 gate"), ("fallback: 10.0.0.9:82",)),
    "fallback without a port": (inner("fallback = 10.0.0.9"), ("fallback: 10.0.0.9:80",)),
    "fallback of this host": (inner("fallback = 127.0.0.1:80"), ("4: not taken over: fallback 127.0.0.1: a loopback",)),
    "fallback before the one at the top": (
        "fallback = 10.0.0.8\n" + inner("fallback = 10.0.0.9"),
        ("fallback: 10.0.0.9:80", "1: not taken over: fallback = 10.0.0.8: no virtual uses it"),
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
    "quiescent = yes": (inner("quiescent = yes"), ("4: not the same: quiescent = yes: nftlb ends the connections",)),
    "quiescent = no": (inner("quiescent = no"), ()),
    "quiescent = no before the one at the top": (
        "quiescent = yes\n" + inner("quiescent = no"), ("1: not taken over: quiescent = yes: no virtual uses it",),
    ),
    "emailalert": (inner("emailalert = a@b"), (f"4: not taken over: emailalert = a@b: {MAIL}",)),
    "emailalertfreq": (inner("emailalertfreq = 9"), (f"4: not taken over: emailalertfreq = 9: {MAIL}",)),
    "emailalertstatus": (inner("emailalertstatus = all"), (f"4: not taken over: emailalertstatus = all: {MAIL}",)),
    "smtp": (inner("smtp = 10.0.0.25"), (f"4: not taken over: smtp = 10.0.0.25: {MAIL}",)),
    "monitorfile": (inner('monitorfile = "/dev/null"'), ("4: not taken over: monitorfile = /dev/null: nftlb's log h",)),
    "cleanstop = yes": (inner("cleanstop = yes"), ("4: not taken over: cleanstop = yes: the rules stay",)),
    "cleanstop = no": (inner("cleanstop = no"), ()),
    "servicename": (inner("servicename = the news"), ("  the-news:\n",)),
    "comment": (inner("comment = of ours"), ("4: not taken over: comment = of ours",)),
    "service = dns": (
        udp('service = dns\nrequest = "www.example.com"\nreceive = "^192"'),
        ("dns: {name: www.example.com, type: A}", "4: not taken over: receive ^192: nftlb accepts any answer"),
    ),
    "service = dns, tcp": (
        checked('service = dns\nrequest = "a.b"\nreceive = "x"'), ("transport: tcp", "3: not taken over: receive x: n"),
    ),
    "service = dns, backwards": (
        udp('service = dns\nrequest = "192.0.2.9"\nreceive = "x"'),
        ('name: "9.2.0.192.in-addr.arpa", type: PTR', "4: not taken over: receive x: nftlb"),
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
    "service = odd": (checked("service = odd"), ("error 3: odd is not a value for service; allowed: dns, ftp",)),
    "service by its port": (checked("checktype = negotiate", "virtual = 192.0.2.80:119"), ('match: "^2"',)),
    "unknown": (inner("odd = 3"), ("error 4: odd is not a directive in a virtual; allowed: DIRECTIVE = VALUE",)),
    "at the other level": (inner("fork = yes"), ("error 4: fork is not a directive in a virtual; allowed: fork outs",)),
    "after an empty line": (inner("#") + "\n\tops = no\n", ("error 6: ops = no is indented, but belongs to no virtu",)),
    "by three blanks": (inner("#") + "   ops = no\n", ("error 5: ops = no is indented, but belongs to no virtual",)),
    "a line of blanks": (inner("#") + "        \n", ('error 5: "" is not a directive in a virtual',)),
    "a comment in between": (inner("scheduler = lc") + "# x\n\t# y\n\tscheduler = rr # z\n",
                             ("4: not taken over: scheduler = lc: line 7 replaces it: scheduler = rr", "# was rr")),
}  # fmt: skip
TABLE = {**{f"top: {name}": row for name, row in TOP_TABLE.items()},
         **{f"virtual: {name}": row for name, row in VIRTUAL_TABLE.items()}}  # fmt: skip
