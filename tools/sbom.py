"""Writes hierax.spdx.json: what the package contains that hierax's authors did not write, or that was trained.

    python tools/sbom.py [--check]

The file is SPDX 2.3. It lists weights, pictures and lists of class names, each with its license, its origin and a
checksum. Authors, licenses and origins are read from `CREDITS.md` and `gallery.json` in `src/hierax/assets`; what these
files do not cover is in `KNOWN` below. All other files of the package must be of a kind that the project writes itself
(`OWN`), and must not contain a notice of copyright of somebody else. `--check` writes nothing, and fails if the file is
not up to date.
"""

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from project import ROOT, tracked, version

TARGET = ROOT / "hierax.spdx.json"
PACKAGE = "src/hierax/"
ASSETS = f"{PACKAGE}assets/"
NAMES = f"{PACKAGE}checkpoint/class_names/"
PUBLIC_DOMAIN, WORDNET = "LicenseRef-public-domain", "LicenseRef-WordNet-3.0"
OWNERS = "Copyright 2026 the hierax maintainers"


@dataclass(frozen=True)
class Origin:
    """Where a file comes from: its license as an SPDX expression, its holder, and a sentence on its source."""

    license: str
    copyright: str
    source: str


_TRAINED = "Trained by the hierax maintainers, with the programs in femto/ on the images that femto/SOURCES.md lists."
KNOWN: Mapping[str, Origin] = {
    f"{ASSETS}femto/model.safetensors": Origin("Apache-2.0", OWNERS, _TRAINED),
    f"{ASSETS}femto.mae/model.safetensors": Origin("Apache-2.0", OWNERS, _TRAINED),
    f"{NAMES}imagenet-1k.txt": Origin(
        f"{WORDNET} AND Apache-2.0",
        "WordNet 3.0 Copyright 2006 by Princeton University",
        "Names of WordNet 3.0, joined from two data files of timm 1.0.31 (Apache-2.0).",
    ),
    f"{NAMES}kinetics-400.txt": Origin(
        "CC-BY-4.0 AND BSD-3-Clause",
        "Google (Kay et al., 2017, arXiv 1705.06950)",
        "Class names of Kinetics-400, taken from torchvision 0.28.0 (BSD-3-Clause).",
    ),
}
OWN = (  # files that the project writes itself
    re.compile(r".*\.py|py\.typed"),
    re.compile(r"assets/(serve|pages|layouts)/[^/]+\.(js|css|html|svg)|assets/report\.css"),
    re.compile(r"assets/femto(\.mae)?/[^/]+\.json|assets/gallery\.json"),
    re.compile(r"assets/CREDITS\.md|checkpoint/class_names/NOTICE"),
)
_FOREIGN = re.compile(
    rb"copyright \(c\)|copyright \d|@license|@preserve|licensed under|all rights reserved", re.IGNORECASE
)
_NOTICES = {"assets/CREDITS.md", "checkpoint/class_names/NOTICE"}
_ROW = re.compile(
    r"^\| `(?P<file>[^`]+)` \| (?P<author>[^|]+) \| (?P<license>[^|]+) \| (?P<source>[^|]+) \|$", re.MULTILINE
)


def spdx_name(license: str) -> str:
    """The SPDX identifier of a license of CREDITS.md."""
    return PUBLIC_DOMAIN if license == "public domain" else license


def credited(root: Path) -> dict[str, Origin]:
    """The origins of the pictures, from the files that credit them."""
    text = (root / ASSETS / "CREDITS.md").read_text(encoding="utf-8")
    found = {
        f"{ASSETS}{row['file']}": Origin(
            spdx_name(row["license"].strip()), row["author"].strip(), row["source"].strip().replace("`", "")
        )
        for row in _ROW.finditer(text)
    }
    pictures = json.loads((root / ASSETS / "gallery.json").read_text(encoding="utf-8"))["pictures"]
    licenses = sorted({spdx_name(picture["license"]) for picture in pictures})
    sources = sorted({picture["source"].partition(",")[0].partition(";")[0] for picture in pictures})
    found[f"{ASSETS}gallery.jpg"] = Origin(
        " AND ".join(licenses),
        "; ".join(sorted({picture["author"] for picture in pictures})),
        f"{len(pictures)} small pictures from {', '.join(sources)}. gallery.json lists the origin of each one.",
    )
    return found


def origins(root: Path, files: Iterable[str]) -> dict[str, Origin]:
    """The origin of each file of the package that the project did not write itself, by its path.

    Raises:
        ValueError: the origin of a file is not known, a file that is listed is missing, or a file of the project
            contains a notice of somebody else.
    """
    listed = {**KNOWN, **credited(root)}
    inside = [file for file in files if file.startswith(PACKAGE)]
    problems = [f"{file} is listed, but it does not exist" for file in listed if file not in inside]
    for file in inside:
        name = file.removeprefix(PACKAGE)
        if file in listed:
            continue
        if not any(pattern.fullmatch(name) for pattern in OWN):
            problems.append(f"{file}: its origin is not known. Add it to CREDITS.md, or to KNOWN in tools/sbom.py")
        elif name not in _NOTICES and (notice := _FOREIGN.search((root / file).read_bytes())):
            problems.append(
                f"{file} contains {notice[0].decode()!r}. If others wrote it, add it to KNOWN in tools/sbom.py"
            )
    if problems:
        raise ValueError("\n".join(problems))
    return {file: listed[file] for file in sorted(listed)}


def expression(found: Mapping[str, Origin]) -> str:
    """The license of the whole package as an SPDX expression; that of the code is first."""
    parts = {part for origin in found.values() for part in origin.license.split(" AND ")} - {
        "Apache-2.0",
        PUBLIC_DOMAIN,
    }
    return " AND ".join(["Apache-2.0", *sorted(parts)])


def document(root: Path, found: Mapping[str, Origin], created: str) -> dict[str, Any]:
    """The SPDX 2.3 document."""
    files = [_file(root, path, origin) for path, origin in found.items()]
    digest = hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    name = f"hierax-{version(root)}"
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{digest}",
        "creationInfo": {
            "created": created,
            "creators": ["Organization: the hierax maintainers", "Tool: tools/sbom.py"],
        },
        "packages": [
            {
                "name": "hierax",
                "SPDXID": "SPDXRef-hierax",
                "versionInfo": version(root),
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "licenseConcluded": expression(found),
                "licenseDeclared": expression(found),
                "copyrightText": OWNERS,
                "comment": "Files that are not listed here were written by the hierax maintainers, under Apache-2.0.",
            }
        ],
        "files": files,
        "hasExtractedLicensingInfos": _texts(root),
        "relationships": [
            {"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": other}
            for other in ("SPDXRef-hierax", *(file["SPDXID"] for file in files))
        ],
    }


def _file(root: Path, path: str, origin: Origin) -> dict[str, Any]:
    content = (root / path).read_bytes()
    name = path.removeprefix("src/")
    kind = {".jpg": "IMAGE", ".txt": "TEXT"}.get(Path(path).suffix, "BINARY")
    return {
        "fileName": f"./{name}",
        "SPDXID": "SPDXRef-" + re.sub(r"[^A-Za-z0-9.-]", "-", name),
        "fileTypes": [kind],
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": hashlib.sha1(content).hexdigest()},
            {"algorithm": "SHA256", "checksumValue": hashlib.sha256(content).hexdigest()},
        ],
        "licenseConcluded": origin.license,
        "licenseInfoInFiles": ["NOASSERTION"],
        "copyrightText": origin.copyright,
        "comment": origin.source,
    }


def _texts(root: Path) -> list[dict[str, str]]:
    notice = (root / NAMES / "NOTICE").read_text(encoding="utf-8")
    start, end = notice.index("    WordNet Release 3.0"), notice.index("kinetics-400.txt\n")
    wordnet = "\n".join(line.strip() for line in notice[start:end].strip().splitlines())
    return [
        {"licenseId": WORDNET, "name": "WordNet 3.0 license", "extractedText": wordnet},
        {
            "licenseId": PUBLIC_DOMAIN,
            "name": "Public domain",
            "extractedText": "The author, or the law, has placed the work in the public domain.",
        },
    ]


def current(root: Path = ROOT, files: Iterable[str] | None = None) -> str:
    """The text that the file should have. The date of a file that is up to date stays as it is."""
    found = origins(root, tracked(root) if files is None else files)
    try:
        before = json.loads((root / TARGET.name).read_text(encoding="utf-8"))
        date = before["creationInfo"]["created"]
    except FileNotFoundError:
        before, date = None, ""
    if document(root, found, date) != before:
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return json.dumps(document(root, found, date), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the file is not up to date")
    arguments = parser.parse_args()
    try:
        text = current()
    except ValueError as error:
        sys.exit(str(error))
    if not arguments.check:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != text:
        sys.exit(f"{TARGET.name} is not up to date: python tools/sbom.py")


if __name__ == "__main__":
    main()
