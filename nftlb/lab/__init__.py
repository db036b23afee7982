"""Real packets without a network: client, balancer and backends in namespaces that vanish with the process.

>>> with Lab(backends=3) as lab, lab.serve(port=5353) as servers, lab.client.connect((VIP4, 53)) as client:
...     lab.nft(ruleset)
...     assert ["b1", "b2", "b3"] * 4 == [answer.backend for answer in client.exchange(12)]
"""

from nftlb.lab.client import Answer, Client, IcmpError
from nftlb.lab.flows import Flow, FlowServers
from nftlb.lab.host import Host
from nftlb.lab.namespace import Namespace
from nftlb.lab.plan import VIP4, VIP6
from nftlb.lab.sctp import SctpFlow, SctpServers
from nftlb.lab.servers import Received, Servers
from nftlb.lab.tap import Checksum, Packet, Tap
from nftlb.lab.topology import Lab

__all__ = [
    "VIP4",
    "VIP6",
    "Answer",
    "Checksum",
    "Client",
    "Flow",
    "FlowServers",
    "Host",
    "IcmpError",
    "Lab",
    "Namespace",
    "Packet",
    "Received",
    "SctpFlow",
    "SctpServers",
    "Servers",
    "Tap",
]
