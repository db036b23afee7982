"""docs/tutorial.md: each command does what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from document_commands import Step, code_blocks, steps

from nftlb.lab import userns

PAGE = Path(__file__).parents[1] / "docs/tutorial.md"
MARK = "--- end of a command ---"
LIMIT = 240.0
"""Seconds for all commands. On a machine with other work, they took 16 to 47."""


def page_steps(text: str) -> list[Step]:
    """The commands of a page, in their order."""
    return [step for block in code_blocks(text) for step in steps(block)]


def pattern(step: Step) -> str:
    """A regular expression for the output of a command: `...` stands for any text."""
    return r".*".join(map(re.escape, "\n".join(step.output).split("...")))


def test_pages_are_read_as_commands_and_output() -> None:
    """Continued lines belong to the command; `...` stands for anything; other output must be equal."""
    page = "text\n\n    $ cat <<END\n    > a\n    >   b\n    > END\n    a\n    $ date\n    2026...\n\ntext\n"
    first, second = page_steps(page)

    assert Step("cat <<END\na\n  b\nEND", ["a"]) == first
    assert re.fullmatch(pattern(second), "2026-11-29", re.DOTALL)
    assert not re.fullmatch(pattern(second), "on 2026-11-29", re.DOTALL)


@pytest.mark.slow
def test_each_command_does_what_the_tutorial_says(tmp_path: Path) -> None:
    """The commands run in one shell, in a new network, and print what the page shows."""
    page = page_steps(PAGE.read_text())
    script = "".join(f"{step.command}\nstatus=$?; printf '\\n{MARK}\\n'; (exit $status)\n" for step in page)
    output = tmp_path / "output"
    # All processes end with the shell, also those in the background; /run has the names of the namespaces.
    alone = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    alone += [] if userns.permitted() else ["--user", "--map-root-user"]
    with output.open("w") as file:
        subprocess.run(
            [*alone, "bash", "-c", f"mount -t tmpfs run /run\n{script}"],
            stdout=file,
            stderr=file,
            env={"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)},
            check=True,
            timeout=LIMIT,
        )
    *printed, rest = output.read_text().split(f"\n{MARK}\n")

    assert "" == rest
    assert len(page) == len(printed)
    differing = [
        f"$ {step.command}\n{text}"
        for step, text in zip(page, printed, strict=True)
        if not re.fullmatch(pattern(step), text.rstrip("\n "), re.DOTALL)
    ]
    assert not differing, "\n\n".join(differing)
