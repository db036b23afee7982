"""Reads configuration files with ldirectord itself, to see which it accepts. No rules are loaded."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from servers.programs import environment, program

if TYPE_CHECKING:
    from collections.abc import Mapping

# ldirectord's modules take half a second to load, so they are loaded once; a process is forked for each file.
# The command `status` reads the file, and exits with 3 because no daemon runs; with a bad file it exits with 2.
_JUDGE = """
    use Socket6; use LWP::UserAgent; use IO::Socket::INET6; use Net::SMTP; use Net::Ping; use Digest::MD5;
    use Pod::Usage; use Getopt::Long; use Sys::Hostname; use Sys::Syslog; use POSIX;
    my $ldirectord = shift @ARGV;
    for my $file (@ARGV) {
        my $child = fork();
        if ($child == 0) { @ARGV = ("-d", $file, "status"); do $ldirectord; print STDERR $@; exit 99 }
        waitpid($child, 0);
        print STDERR "JUDGED ", $? >> 8, "\n";
    }
"""


def verdicts(files: Mapping[str, str], directory: Path) -> dict[str, str]:
    """By name of the file, the reason why ldirectord refuses it; empty if ldirectord accepts it."""
    (directory / "ipvsadm").touch()  # ldirectord looks for the program, and does not run it
    paths = {name: directory / f"{number}.cf" for number, name in enumerate(files)}
    for name, path in paths.items():
        path.write_bytes(files[name].encode())
    done = subprocess.run(
        [program("perl"), "-e", _JUDGE, program("ldirectord"), *map(str, paths.values())],
        cwd=directory,
        env={**environment(), "PERLIO": "perlio", "HOSTNAME": "here"},
        capture_output=True,
        check=True,
        timeout=300,
    )
    said = done.stderr.decode(errors="replace")
    *judgements, rest = said.split("JUDGED ")
    assert len(judgements) == len(paths), said
    found = {}
    statuses = [part.partition("\n")[0] for part in (*judgements[1:], rest)]
    for name, words, status in zip(paths, judgements, statuses, strict=True):
        assert status in {"2", "3"}, words
        why = [line for line in words.splitlines() if line.startswith("Error ")]
        found[name] = "" if status == "3" else "\n".join(why) or words
    return found


def source() -> str:
    """The source of ldirectord, with all words that it compares with."""
    return Path(program("ldirectord")).read_text(encoding="utf-8")
