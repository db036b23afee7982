"""Whether the kernel has the options of flows: a helper of conntrack, and time-outs."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
from fake_kernel import FakeNft

from nftlb.errors import KernelError
from nftlb.kernel import LibNftables
from nftlb.kernel.flow_options import SESSION_TIMEOUT, has_option, lacks_translation
from nftlb.lab import Namespace, userns

if TYPE_CHECKING:
    from pathlib import Path

LOADED, BUILT_IN, TRANSLATION = "nf_conntrack_tftp/initstate", "nf_conntrack_tftp/parameters", "nf_nat_tftp/initstate"


def modules_of(place: Path, *files: str) -> Path:
    """A directory like /sys/module with these files."""
    for file in files:
        (place / file).parent.mkdir(parents=True)
        (place / file).touch()
    return place


def test_the_real_kernel(tmp_path: Path) -> None:
    """The kernel has time-outs, a helper for TFTP, and none of another name. The question leaves no table behind."""
    userns.ensure()
    lacking = modules_of(tmp_path / "lacking", LOADED)

    def ask() -> tuple[bool, bool, bool, bool, int]:
        with LibNftables() as kernel:
            before = kernel.generation()
            answers = (
                has_option(kernel, SESSION_TIMEOUT),
                has_option(kernel, "tftp", tmp_path / "none"),
                has_option(kernel, "no-such-helper"),
                has_option(kernel, "tftp", lacking),
            )
            return *answers, kernel.generation() - before

    with Namespace("helpers") as namespace:
        assert (True, True, False, False, 0) == namespace.call(ask)


@pytest.mark.parametrize(
    ("files", "expected"),
    [([LOADED], True), ([LOADED, TRANSLATION], False), ([TRANSLATION], False), ([], False), ([BUILT_IN], False)],
)
def test_modules_that_belong_together(files: list[str], *, expected: bool, tmp_path: Path) -> None:
    """Without its second module, a helper that is not built in does not translate."""
    assert expected is lacks_translation(modules_of(tmp_path, *files), "tftp")


@pytest.mark.parametrize("name", [SESSION_TIMEOUT, "tftp"])
@pytest.mark.parametrize(
    ("answer", "missing"),
    [
        (errno.ENOENT, True),
        (errno.EOPNOTSUPP, True),
        (errno.ENOMEM, False),
        (errno.EINTR, False),
        (errno.EPERM, False),
        (errno.EBUSY, False),
    ],
)
def test_only_some_answers_mean_that_an_option_is_missing(
    name: str, answer: int, *, missing: bool, tmp_path: Path
) -> None:
    """After any other refusal the option may be there: the load is refused, and the old rules stay."""

    class Refusing(FakeNft):
        def check(self, text: str) -> None:
            del text
            raise KernelError(f"nftables refused: Error: Could not process rule: {os.strerror(answer)}")

    if missing:
        assert not has_option(Refusing(), name, tmp_path)
    else:
        with pytest.raises(KernelError, match=os.strerror(answer)):
            has_option(Refusing(), name, tmp_path)
