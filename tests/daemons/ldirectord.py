"""ldirectord, as a judge of its own configuration files. It loads no rules, and starts no daemon."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from daemons.programs import environment, program

if TYPE_CHECKING:
    from collections.abc import Mapping

# Its modules take half a second to load, so they are loaded once; each file has a process of its own.
# `status` reads the file, and then ends with 3 where no daemon runs; a bad file ends with 2.
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
    """What ldirectord says of each file, by the name of the file: nothing if it takes it, else why not."""
    (directory / "ipvsadm").touch()  # it looks for one, and runs none
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
    *each, rest = said.split("JUDGED ")
    assert len(each) == len(paths), said
    found = {}
    statuses = [one.partition("\n")[0] for one in (*each[1:], rest)]
    for name, words, status in zip(paths, each, statuses, strict=True):
        assert status in {"2", "3"}, words
        why = [line for line in words.splitlines() if line.startswith("Error ")]
        found[name] = "" if status == "3" else "\n".join(why) or words
    return found


def source() -> str:
    """The text of ldirectord itself, which knows best what its words are."""
    return Path(program("ldirectord")).read_text(encoding="utf-8")
