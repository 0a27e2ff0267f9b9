"""A compiled policy as a folder: one folder for each target, and a manifest of what everything rests on.

``compiled.json`` names the policy, the channel, the releases and every file, so that whoever signs the files
into a channel can see what they sign. Nothing is decided from it: ``prove`` starts from the verified channel.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tallystick.compile.produce import Compiled
from tallystick.core import jsondoc
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unsupported
from tallystick.core.files import read_file, whole_folder, write_file
from tallystick.core.findings import Finding
from tallystick.policy import document
from tallystick.policy.jsonfields import JsonFields
from tallystick.policy.normal import NormalForm

SCHEMA = "tallystick/compilation/v1"
MANIFEST = "compiled.json"
SOURCE = "policy.yaml"  # the policy as its author wrote it, so that approvers can compile it again
_WHAT = "compilation manifest"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_FILE_BYTES = document.MAX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """A folder that ``tally compile`` wrote, read back and held to its own manifest. Not proved by that."""

    policy: str
    policy_digest: Digest
    channel: str
    normal_form: Digest
    releases: tuple[Digest, ...]  # sorted
    files: Mapping[str, Mapping[str, bytes]]  # target -> file name -> bytes
    manifest: Digest

    def of(self, target: str) -> Mapping[str, bytes]:
        """Return the files of ``target``; empty when it was not compiled for it."""
        return self.files.get(target, {})


def manifest(form: NormalForm, compiled: Sequence[Compiled]) -> bytes:
    """Return the manifest: equal compilations give equal bytes."""
    targets = {
        one.emitted.target: {
            "files": {name: _entry(data) for name, data in sorted(one.emitted.files.items())},
            "max_age_seconds": one.emitted.max_age_seconds,
            "not_after": _time(one.emitted.not_after),
            "assumes": list(one.emitted.assumes),
            "not_checked": [r.requirement for r in form.residuals if r.target == one.emitted.target],
            "released": one.proof.released,
            "accepted": one.proof.accepted,
        }
        for one in compiled
    }
    found = {
        "schema": SCHEMA,
        "policy": form.policy,
        "policy_digest": str(form.policy_digest),
        "channel": form.channel,
        "normal_form": str(document.digest(form)),
        "releases": [str(release.digest) for release in form.releases],
        "targets": dict(sorted(targets.items())),
    }
    return (json.dumps(found, indent=2) + "\n").encode()


def files(form: NormalForm, compiled: Sequence[Compiled], source: bytes) -> dict[str, bytes]:
    """Return every file of a compilation by its path: targets, manifest, and the policy's own source."""
    found = {
        f"{one.emitted.target}/{name}": data for one in compiled for name, data in one.emitted.files.items()
    }
    return {**found, MANIFEST: manifest(form, compiled), SOURCE: source}


def write(folder: Path, form: NormalForm, compiled: Sequence[Compiled], source: bytes) -> None:
    """Write the folder whole, or not at all.

    Args:
        source: the policy file that was compiled.

    Raises:
        Unreachable: the disk is full or the place can not be written.
        Misuse: something else than a compilation is there (``output.not-ours``).
    """
    _check_place(folder)
    with whole_folder(folder) as work:
        for path, data in files(form, compiled, source).items():
            write_file(work / path, data)


def read(folder: Path) -> Compilation:
    """Return the compilation in ``folder``.

    Raises:
        Misuse: there is none. Malformed, Unsupported: its manifest is not one.
        NotGenuine: a file is missing, changed, or not in the manifest (``compilation.file.…``).
    """
    data = read_file(folder / MANIFEST, _WHAT, max_bytes=_MAX_FILE_BYTES)
    fields = JsonFields(jsondoc.loads(data, _WHAT), _WHAT)
    schema = fields.text("schema")
    if schema != SCHEMA:
        raise Unsupported(_WHAT, at="schema", want=SCHEMA, got=schema)
    releases = tuple(Digest.parse(text) for text in fields.texts("releases"))
    found = (fields.text("policy"), fields.digest("policy_digest"), fields.text("channel"))
    normal_form = fields.digest("normal_form")
    listed = {target: _files(entry, target) for target, entry in _object(fields, "targets").items()}
    fields.end()
    held = {target: _held(folder, target, entries) for target, entries in listed.items()}
    _held(folder, "", {SOURCE: found[1]})
    _check_extra(folder, listed)
    return Compilation(
        policy=found[0],
        policy_digest=found[1],
        channel=found[2],
        normal_form=normal_form,
        releases=releases,
        files=held,
        manifest=Digest.of(data),
    )


def _files(entry: Any, target: str) -> dict[str, Digest]:
    at = f"document.targets.{target}"
    if not _NAME.fullmatch(target):
        raise Malformed(_WHAT, at="document.targets", want="a target's name", got=target)
    fields = JsonFields(entry, _WHAT, at)
    found: dict[str, Digest] = {}
    for name, value in _object(fields, "files").items():
        if not _NAME.fullmatch(name):
            raise Malformed(_WHAT, at=f"{at}.files", want="a plain file name", got=name)
        one = JsonFields(value, _WHAT, f"{at}.files.{name}")
        found[name] = Digest.parse(f"sha256:{one.text('sha256')}")
        one.integer("size", least=0)
        one.end()
    for name in ("max_age_seconds", "released", "accepted"):
        fields.integer(name, least=0)
    fields.time("not_after")
    fields.items("assumes")
    fields.items("not_checked")
    fields.end()
    return found


def _object(fields: JsonFields, name: str) -> dict[str, Any]:
    value = fields.take(name)
    if not isinstance(value, dict):
        raise fields.bad(name, want="an object", got=value)
    return value


def _held(folder: Path, target: str, entries: Mapping[str, Digest]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, digest in sorted(entries.items()):
        place = folder / target / name
        where = f"{target}/{name}".lstrip("/")
        if not place.is_file() or place.is_symlink():
            raise _differs("missing", where, str(digest), "no plain file")
        data = read_file(place, name, max_bytes=_MAX_FILE_BYTES)
        if Digest.of(data) != digest:
            raise _differs("changed", where, str(digest), str(Digest.of(data)))
        found[name] = data
    return found


def _check_extra(folder: Path, listed: Mapping[str, Mapping[str, Digest]]) -> None:
    known = {MANIFEST, SOURCE, *(f"{target}/{name}" for target, names in listed.items() for name in names)}
    for path in _walk(folder):
        if path not in known:
            raise _differs("extra", path, "no such file", "a file")


def _walk(folder: Path) -> Iterator[str]:
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            yield str((Path(where) / name).relative_to(folder))


def _check_place(folder: Path) -> None:
    """Only an empty folder, or an older compilation, is replaced."""
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / MANIFEST).exists())
    ):
        raise Misuse(f"{folder} is there, and is no compiled policy", code="output.not-ours")


def _differs(code: str, where: str, want: str, got: str) -> NotGenuine:
    finding = Finding(f"compilation.file.{code}", where, want=want, got=got)
    return NotGenuine(finding.message, findings=[finding])


def _entry(data: bytes) -> dict[str, object]:
    return {"sha256": Digest.of(data).hex, "size": len(data)}


def _time(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
