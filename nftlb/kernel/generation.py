"""The generation number of nf_tables: a cheap way to notice that any process has changed nftables."""

from __future__ import annotations

import errno
import socket
import struct

from nftlb.errors import KernelError, SystemFault

from .netlink import NETLINK_NETFILTER, Netlink, attributes

# include/uapi/linux/netfilter/nf_tables.h; the message type with the subsystem, NFNL_SUBSYS_NFTABLES
_GETGEN = 0xA10
_NFTA_GEN_ID = 1
_NFGENMSG = struct.Struct("=BBH")  # address family, version, resource
_NUMBER = struct.Struct("!I")
_REQUEST = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)


class Generation(Netlink):
    """Reads the generation number repeatedly through one socket. A context manager.

    It works on the network namespace of the thread that makes it. Only one thread at a time may use it.
    """

    def __init__(self) -> None:
        try:
            super().__init__(NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"the kernel has no netfilter: {error.strerror}") from error

    def read(self) -> int:
        """Return the number, which grows by one with every transaction of any process in the namespace.

        It has 32 bits, and skips 0 when it wraps. Raises SystemFault if this process lacks the permission, KernelError
        if the kernel has no nf_tables.
        """
        try:
            answer = self.ask(_GETGEN, _REQUEST)
        except PermissionError as error:
            raise SystemFault("not permitted to use nftables: run nftlb as root, or with CAP_NET_ADMIN") from error
        except OSError as error:
            fix = ": modprobe nf_tables" if error.errno in (errno.EINVAL, errno.EOPNOTSUPP) else ""
            raise KernelError(f"the kernel's nf_tables can't be asked: {error.strerror}{fix}") from error
        return int(_NUMBER.unpack(attributes(answer, _NFGENMSG.size)[_NFTA_GEN_ID])[0])


def read_generation() -> int:
    """Return the generation number in the network namespace of this thread. See `Generation.read`."""
    with Generation() as reader:
        return reader.read()
