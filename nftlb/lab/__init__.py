"""Real packets without a real network: client, balancer and backends in namespaces that end with the process.

>>> with Lab(backends=3) as lab, lab.serve(port=5353) as servers, lab.client.connect((VIP4, 53)) as client:
...     lab.nft(ruleset)
...     assert ["b1", "b2", "b3"] * 4 == [answer.backend for answer in client.exchange(12)]
"""

from .host import DatagramResult, Host, LabClient
from .namespace import Namespace
from .plan import VIP4, VIP6
from .servers import Received, Servers
from .topology import Lab

__all__ = [
    "VIP4",
    "VIP6",
    "DatagramResult",
    "Host",
    "Lab",
    "LabClient",
    "Namespace",
    "Received",
    "Servers",
]
