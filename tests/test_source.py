"""What a start goes by: the file, or the last good copy of it, and whose copy is taken."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from nftlb.daemon.source import apis_of, copy_of, first_source
from nftlb.daemon.store import Store, last_good
from nftlb.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

GOOD = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:53}}}\n"
BAD = "pools: {dns: {listen: nowhere}}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nftlb.yaml"


def keep(tmp_path: Path, file: Path, text: str = GOOD) -> Path:
    """A directory with a copy of the file, as a daemon left it."""
    directory = tmp_path / "state"
    Store(str(directory), "nftlb").keep(str(file), text.encode())
    return directory


def test_a_good_file_is_taken(file: Path, tmp_path: Path) -> None:
    """The copy, which may be of another time, is not even looked at."""
    directory = keep(tmp_path, file, "pools: 7\n")
    file.write_text(GOOD)

    found = first_source(str(file), str(directory))

    assert (GOOD.encode(), "", ()) == (found.text, found.copy, found.problems)


@pytest.mark.parametrize("what", ["bad", "torn", "empty", "binary", "missing", "directory", "fifo", "loop"])
def test_a_copy_stands_in_for_whatever_is_there(what: str, file: Path, tmp_path: Path) -> None:
    """Its text is what the file's was, so that keeping that again changes nothing; the faults are those of `check`."""
    directory = keep(tmp_path, file)
    match what:
        case "directory":
            file.mkdir()
        case "fifo":
            os.mkfifo(file)
        case "loop":
            file.symlink_to(file)
        case "missing":
            pass
        case _:
            file.write_bytes({"bad": BAD.encode(), "torn": b"pools: {dns", "empty": b"", "binary": b"\xff\0"}[what])
    with pytest.raises(ConfigError) as caught:
        first_source(str(file), None)

    found = first_source(str(file), str(directory))

    assert (GOOD.encode(), str(directory / "nftlb.yaml")) == (found.text, found.copy)
    assert ["ns1"] == [one.name for one in found.config.pools[0].backends]
    assert tuple(str(caught.value).splitlines()) == found.problems
    before = (directory / "nftlb.yaml").read_bytes()
    keep(tmp_path, file, found.text.decode())
    assert before == (directory / "nftlb.yaml").read_bytes()


def test_a_bad_copy_is_of_no_use(file: Path, tmp_path: Path) -> None:
    """What is raised is what is wrong with the file, as without a copy."""
    directory = keep(tmp_path, file, BAD)
    file.write_text("pools: 7\n")

    for place in (directory, tmp_path / "none"):
        with pytest.raises(ConfigError, match=r"nftlb\.yaml:1:8: pools: "):
            first_source(str(file), str(place))


@pytest.mark.parametrize(
    "text",
    [
        "state_dir: {0}\npools: {{dns: {{listen: nowhere}}}}\n",
        "state_dir: '{0}'  # here\npools: [\n",
        '{{"pools": 7, "state_dir": "{0}"}}',
        "pools:\n\t- x\nstate_dir: {0}\r\n",
    ],
    ids=["block", "torn", "json", "a tab"],
)
def test_a_bad_file_may_still_tell_where_the_copy_is(text: str, file: Path, tmp_path: Path) -> None:
    """Its own `state_dir` is looked into before the one that is given."""
    directory = keep(tmp_path, file)
    file.write_text(text.format(directory))

    assert str(directory / "nftlb.yaml") == first_source(str(file), str(tmp_path / "none")).copy
    assert directory / "nftlb.yaml" == copy_of(str(file), file.read_bytes(), "/none")


def test_whose_copy_is_taken(file: Path, tmp_path: Path) -> None:
    """A copy says which programs are run: not one that others may write, nor a link, nor what is no file."""
    directory = keep(tmp_path, file)
    copy = directory / "nftlb.yaml"
    assert copy == last_good(directory, str(file))

    copy.chmod(0o620)
    assert None is last_good(directory, str(file))
    copy.chmod(0o602)
    assert None is last_good(directory, str(file))
    copy.chmod(0o600)
    copy.rename(tmp_path / "elsewhere")
    copy.symlink_to(tmp_path / "elsewhere")
    assert None is last_good(directory, str(file))
    copy.unlink()
    os.mkfifo(copy)
    assert None is last_good(directory, str(file))


@pytest.mark.skipif(os.geteuid() != 0, reason="files of others")
def test_a_copy_of_somebody_else(file: Path, tmp_path: Path) -> None:
    """In a directory of root's, another user's file is not taken; in his own directory it is."""
    directory = keep(tmp_path, file)
    os.chown(directory / "nftlb.yaml", 1, 1)
    assert None is last_good(directory, str(file))

    os.chown(directory, 1, 1)
    assert directory / "nftlb.yaml" == last_good(directory, str(file))


def test_where_the_api_may_be(file: Path, tmp_path: Path) -> None:
    """Where the file has it, and where its copy has it; of a bad file only the latter."""
    directory = tmp_path / "state"
    keep(tmp_path, file, f"api: {{listen: unix:/old.sock}}\n{GOOD}")
    file.write_text(f"state_dir: {directory}\napi: {{listen: 127.0.0.1:1}}\n{GOOD}")
    assert ["127.0.0.1:1", "unix:/old.sock"] == apis_of(str(file))

    file.write_text(f"state_dir: {directory}\n{BAD}")
    assert ["unix:/old.sock"] == apis_of(str(file))
