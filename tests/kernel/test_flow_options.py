"""Whether the kernel has the options of flows: a helper of conntrack, and time-outs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nftlb.kernel import LibNftables
from nftlb.kernel.flow_options import SESSION_TIMEOUT, has_option, lacks_translation
from nftlb.lab import Namespace, userns

if TYPE_CHECKING:
    from pathlib import Path

HELPER, TRANSLATION = "nf_conntrack_tftp 16384 2 nf_nat_tftp - Live\n", "nf_nat_tftp 12288 0 - Live\n"


def test_the_real_kernel(tmp_path: Path) -> None:
    """The kernel has time-outs, a helper for TFTP, and none of another name. The question leaves no table behind."""
    userns.ensure()
    listed = tmp_path / "modules"
    listed.write_text(HELPER)

    def ask() -> tuple[bool, bool, bool, bool, int]:
        with LibNftables() as kernel:
            before = kernel.generation()
            answers = (
                has_option(kernel, SESSION_TIMEOUT),
                has_option(kernel, "tftp", tmp_path / "none"),
                has_option(kernel, "no-such-helper"),
                has_option(kernel, "tftp", listed),
            )
            return *answers, kernel.generation() - before

    with Namespace("helpers") as namespace:
        assert (True, True, False, False, 0) == namespace.call(ask)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [(HELPER, True), (HELPER + TRANSLATION, False), (TRANSLATION, False), ("", False), ("nf_conntrack 1 2\n", False)],
)
def test_modules_that_belong_together(modules: str, *, expected: bool) -> None:
    """Without its second module, a helper that is not built in does not translate."""
    assert expected is lacks_translation(modules, "tftp")
