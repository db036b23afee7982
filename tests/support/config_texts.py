"""Short configurations for tests, and the faults of a text."""

from __future__ import annotations

from typing import Any

import pytest

from nftlb.config import parse_config
from nftlb.errors import ConfigError

SMALLEST = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:53}}}"


def faults(text: str | bytes) -> list[str]:
    """The errors of a text, without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f")
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def pool(text: str, *, before: str = "") -> Any:
    """Parse one pool, given by its settings besides a listener and a backend."""
    return parse_config(
        f"{before}\npools:\n  dns: {{listen: 192.0.2.53:53/udp, backends: {{a: 10.0.0.1:53}}, {text}}}"
    ).pools[0]
