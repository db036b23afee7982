"""The generation number of nf_tables: a cheap way to notice that somebody has changed something."""

from __future__ import annotations

import errno
import socket
import struct
from typing import Self

from nftlb.errors import KernelError, SystemFault

from .netlink import NETLINK_NETFILTER, Netlink, attributes

# include/uapi/linux/netfilter/nf_tables.h; the message type with the subsystem, NFNL_SUBSYS_NFTABLES
_GETGEN = 0xA10
_NFTA_GEN_ID = 1
_NFGENMSG = struct.Struct("=BBH")  # address family, version, resource
_NUMBER = struct.Struct("!I")
_REQUEST = _NFGENMSG.pack(socket.AF_UNSPEC, 0, 0)


class Generation:
    """Reads the number again and again through one socket; a context manager.

    It belongs to the network namespace of the thread that makes it. One reader at a time.
    """

    def __init__(self) -> None:
        try:
            self._netlink = Netlink(NETLINK_NETFILTER)
        except OSError as error:
            raise KernelError(f"the kernel has no netfilter: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._netlink.close()

    def read(self) -> int:
        """Return the number: it moves by one with every transaction of anyone in the namespace.

        32 bits, and 0 is left out when it wraps. Raises SystemFault if this process may not ask, KernelError if the
        kernel has no nf_tables.
        """
        try:
            answer = self._netlink.ask(_GETGEN, _REQUEST)
        except PermissionError as error:
            raise SystemFault("not permitted to use nftables: run nftlb as root, or with CAP_NET_ADMIN") from error
        except OSError as error:
            mend = ": modprobe nf_tables" if error.errno in (errno.EINVAL, errno.EOPNOTSUPP) else ""
            raise KernelError(f"the kernel's nf_tables can't be asked: {error.strerror}{mend}") from error
        return int(_NUMBER.unpack(attributes(answer, _NFGENMSG.size)[_NFTA_GEN_ID])[0])


def generation() -> int:
    """Return the number in the network namespace of this thread; see `Generation.read`."""
    with Generation() as reader:
        return reader.read()
