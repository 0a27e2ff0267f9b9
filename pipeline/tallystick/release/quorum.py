"""Whether enough independent builders got the same bytes. Every link that is there must be genuine and agree.

Source: docs/decisions/0060-rebuild-quorum.md; in-toto specification 1.0, section 5.2 (verification).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine, Refused, Unsupported
from tallystick.core.findings import Finding
from tallystick.release import keys, links
from tallystick.release.layout import Layout
from tallystick.release.links import Artifacts, Link
from tallystick.release.records import Functionary, Index, Quorum


def judge(layout: Layout, files: Mapping[str, bytes], index: Index, *, builder_id: str) -> Quorum:
    """Return who rebuilt the release of ``index``. Whether they are enough is ``Quorum.met``.

    The builder that made the release never counts, nor does its organisation, and each organisation counts
    once. A link that is not genuine, is for another release, or dissents, refuses the release even when
    enough others agree: a difference is news that a threshold must not outvote.

    Args:
        files: file name -> bytes, everything in the release's ``links`` folder.
        builder_id: of the builder that made the release, from its verified provenance.

    Raises:
        NotGenuine: a link that is malformed, wrongly signed, or by a key the layout does not name.
        Refused: dissent, another release's link, a product that the layout does not allow.
    """
    false: list[Finding] = []
    parsed: list[tuple[Link, Functionary]] = []
    for file, data in sorted(files.items()):
        try:
            link = links.parse(file, data)
        except (Malformed, Unsupported) as error:
            false.append(_finding("malformed", file, error.want, f"{error.at}: {error.got}"))
            continue
        functionary = layout.functionary(link.keyid)
        if functionary is None:
            false.append(_finding("unauthorised", file, "a key of the layout", link.keyid[:8]))
        elif not keys.holds(
            functionary.public_key, link.envelope.signatures[0].sig, link.envelope.signed_bytes
        ):
            false.append(_finding("signature", file, f"{functionary.name}'s signature", "a wrong one"))
        else:
            parsed.append((link, functionary))
    if false:
        raise NotGenuine("the rebuild links are not genuine", findings=false)
    wanted = links.expected(index)
    refused = [*_unexpected(layout, wanted)]
    for link, functionary in parsed:
        refused += _disagreement(link, functionary, wanted, index.digest)
    if refused:
        raise Refused("the rebuild links do not agree with the release", findings=refused)
    return _counted(layout, parsed, builder_id)


def shortfall(quorum: Quorum) -> tuple[Finding, ...]:
    """Return the finding that says how many rebuilders are missing; none when the quorum is met."""
    if quorum.met:
        return ()
    names = ", ".join(f.name for f in quorum.counted) or "nobody"
    note = "".join(f"; {f.name} does not count: {why}" for f, why in quorum.not_counted)
    return (
        Finding(
            "release.quorum.missing",
            "links",
            want=f"{quorum.threshold} independent rebuilder(s)",
            got=f"{len(quorum.counted)}: {names}{note}",
        ),
    )


def second_opinion(layout: Layout, files: Mapping[str, bytes], quorum: Quorum) -> None:
    """Let unmodified in-toto verify the layout and the links that count.

    in-toto reads the clock for the layout's expiry, which :func:`layout.read` has judged at the caller's
    ``now``; when only that fails here, its remaining steps run without it.

    Raises:
        NotGenuine: in-toto refuses what we accepted (``release.quorum.in-toto``).
    """
    from in_toto import exceptions, verifylib
    from in_toto.models.metadata import Metadata
    from securesystemslib.exceptions import Error

    counted = {links.file_name(functionary.keyid) for functionary in quorum.counted}
    with tempfile.TemporaryDirectory(prefix="tally-links-") as folder:
        for file in counted:
            (Path(folder) / file).write_bytes(files[file])
        root = Path(folder) / "root.layout"
        root.write_bytes(layout.document)
        owners = dict(map(_owner_key, layout.owners))
        try:
            metadata = Metadata.load(str(root))
            try:
                verifylib.in_toto_verify(
                    metadata, owners, link_dir_path=folder, persist_inspection_links=False
                )
            except exceptions.LayoutExpiredError:
                _without_clock(metadata, folder)
        except (Error, exceptions.LayoutExpiredError, KeyError, TypeError, ValueError) as error:
            got = f"{type(error).__name__}: {error}"
            finding = Finding("release.quorum.in-toto", "links", want="in-toto agrees", got=got)
            raise NotGenuine("in-toto refuses the rebuild links", findings=[finding]) from None


def _without_clock(metadata: object, folder: str) -> None:
    """Run the steps of ``in_toto_verify`` that follow the expiry check, in its order."""
    from in_toto import verifylib

    layout = metadata.get_payload()  # type: ignore[attr-defined]
    steps = verifylib.load_links_for_layout(layout, folder)
    steps = verifylib.verify_link_signature_thresholds(layout, steps)
    chain = {name: {k: m.get_payload() for k, m in found.items()} for name, found in steps.items()}
    verifylib.verify_threshold_constraints(layout, chain)
    verifylib.verify_all_item_rules(layout.steps, verifylib.reduce_chain_links(chain))


def _owner_key(pem: str) -> tuple[str, dict[str, object]]:
    public_key = keys.from_pem(pem, "layout owner")
    keyid = keys.keyid_of(public_key)
    value = {"public": public_key.hex()}
    return keyid, {"keyid": keyid, "keytype": "ed25519", "scheme": "ed25519", "keyval": value}


def _unexpected(layout: Layout, wanted: Artifacts) -> Iterator[Finding]:
    for path, _ in wanted.products:
        if path not in layout.allowed:
            allowed = ", ".join(layout.allowed)
            yield Finding("release.quorum.product", path, want=f"one of {allowed}", got="another product")


def _disagreement(
    link: Link, functionary: Functionary, wanted: Artifacts, release: Digest
) -> Iterator[Finding]:
    if link.release != release:
        yield _finding("other-release", link.file, str(release), str(link.release))
        return
    for kind, want, got in (
        ("material", wanted.materials, link.artifacts.materials),
        ("product", wanted.products, link.artifacts.products),
    ):
        expected, named = dict(want), dict(got)
        for path in sorted(expected.keys() | named.keys()):
            if expected.get(path) != named.get(path):
                yield Finding(
                    "release.quorum.dissent",
                    f"{functionary.name}: {kind} {path}",
                    want=str(expected.get(path, "nothing")),
                    got=str(named.get(path, "nothing")),
                )


def _counted(layout: Layout, parsed: list[tuple[Link, Functionary]], builder_id: str) -> Quorum:
    own = {f.organisation for f in layout.functionaries if f.builder_id == builder_id}
    counted: dict[str, Functionary] = {}
    not_counted: list[tuple[Functionary, str]] = []
    for _, functionary in sorted(parsed, key=lambda pair: pair[1].name):
        organisation = functionary.organisation
        if functionary.builder_id == builder_id:
            not_counted.append((functionary, "it made the release"))
        elif organisation in own:
            not_counted.append((functionary, f"{organisation} made the release"))
        elif organisation in counted:
            not_counted.append((functionary, f"{organisation} counts already"))
        else:
            counted[organisation] = functionary
    return Quorum(
        threshold=layout.threshold,
        counted=tuple(sorted(counted.values(), key=lambda f: f.name)),
        not_counted=tuple(not_counted),
        links=tuple(sorted((link.file, link.digest) for link, _ in parsed)),
    )


def _finding(code: str, file: str, want: str, got: str) -> Finding:
    return Finding(f"release.link.{code}", f"{links.FOLDER}/{file}", want=want, got=got)
