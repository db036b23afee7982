"""Prints the bill of materials of the package as CycloneDX 1.6: sbom.py VERSION REPORT DIRECTORY.

REPORT is what `pip install --report` wrote: the Python packages in the virtual environment of the package, each with
the hash of the file that it came from. DIRECTORY is where they are installed, with their licences. The same input gives
the same bytes; SOURCE_DATE_EPOCH is the time.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import uuid
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import PackageMetadata

ROOT = Path(__file__).resolve().parents[1]
_LONGEST = 100
"""Characters of the name of a licence. Some packages have the whole text of the licence in this field."""
_NAMESPACE = uuid.UUID("f1b0b5a2-6d52-4d0c-9a53-0d6f5c0a2b11")


def bill(version: str, report: dict[str, Any], directory: str) -> dict[str, Any]:
    """The document for a version of the package, from a report of pip and the directory of the packages."""
    licences = {_normalised(one.name): _licences(one.metadata) for one in distributions(path=[directory])}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = {_normalised(re.split(r"[^\w.-]", one)[0]) for one in project["dependencies"]}
    components = sorted((_component(one, licences) for one in report["install"]), key=lambda one: str(one["name"]))
    application = f"pkg:deb/nftlb-daemon@{version}"
    content = {
        "metadata": {
            "timestamp": datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC).isoformat(),
            "component": {
                "type": "application",
                "bom-ref": application,
                "name": "nftlb-daemon",
                "version": version,
                "description": project["description"],
                "licenses": [{"expression": project["license"]}],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": application, "dependsOn": [one["bom-ref"] for one in components if one["name"] in direct]}
        ],
    }
    serial = uuid.uuid5(_NAMESPACE, json.dumps(content, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    } | content


def _component(installed: dict[str, Any], licences: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    metadata = installed["metadata"]
    name = _normalised(metadata["name"])
    link = f"pkg:pypi/{name}@{metadata['version']}"
    return {
        "type": "library",
        "bom-ref": link,
        "name": name,
        "version": metadata["version"],
        "purl": link,
        "hashes": [{"alg": "SHA-256", "content": installed["download_info"]["archive_info"]["hashes"]["sha256"]}],
        "licenses": licences[name],
    }


def _licences(metadata: PackageMetadata) -> list[dict[str, Any]]:
    # Older packages have a name, or the whole text, or only a classifier or a file. pip's report lacks the new field on
    # Debian 12.
    if "License-Expression" in metadata:
        return [{"expression": metadata["License-Expression"]}]
    name = metadata["License"] if "License" in metadata else ""  # noqa: SIM401 - Python 3.11 has no type for get()
    if not 0 < len(name) <= _LONGEST:
        classes = [one for one in metadata.get_all("Classifier", []) if one.startswith("License ::")]
        name = ", ".join(one.rpartition(" :: ")[2] for one in classes)
    if not name and "License-File" in metadata:
        name = f"the text in {metadata['License-File']}"
    return [{"license": {"name": name}}] if name else []


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(version: str, report: str, directory: str) -> None:
    """Print the document."""
    print(json.dumps(bill(version, json.loads(Path(report).read_text()), directory), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
