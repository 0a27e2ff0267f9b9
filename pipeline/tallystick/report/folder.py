"""A release directory, read: no byte of it is used before it was compared with the release index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tallystick.build.contents import parse as parse_contents
from tallystick.build.records import Contents
from tallystick.core.digests import Digest
from tallystick.core.errors import Malformed, NotGenuine
from tallystick.core.files import file_digest, read_file
from tallystick.core.findings import Finding
from tallystick.formats import intoto, nixstore
from tallystick.formats.intoto import Statement
from tallystick.measure.records import Measurement
from tallystick.measure.statement import from_statement
from tallystick.provenance.check import Released
from tallystick.release import index as release_index
from tallystick.release.records import Index, IndexedFile

_MAX_FILE_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class ReleaseFolder:
    """One release directory and its index. The index itself is believed only as far as its digest is."""

    path: Path
    index: Index
    _read: dict[str, bytes] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, path: Path) -> ReleaseFolder:
        """Return the folder with its index read; nothing else is looked at.

        Raises:
            Misuse, Malformed, Unsupported: as ``release.index.read``.
        """
        return cls(path, release_index.read(path))

    def read(self, path: str) -> bytes:
        """Return the bytes of the file at ``path``, which are those that the index names.

        Raises:
            NotGenuine: the index does not name it (``release.file.extra``), or it is another file now
                (``release.file.changed``).
            Misuse, Unreachable: it is not there, or can not be read.
        """
        if path not in self._read:
            entry = self._entry(path)
            data = read_file(self.path / path, path, max_bytes=_MAX_FILE_BYTES)
            self._compare(entry, Digest.of(data))
            self._read[path] = data
        return self._read[path]

    def digest(self, path: str) -> Digest:
        """Return the digest of the file at ``path``, which is hashed now and compared; errors as :meth:`read`."""
        entry = self._entry(path)
        found = Digest.of(self._read[path]) if path in self._read else file_digest(self.path / path)
        self._compare(entry, found)
        return found

    def statement(self, name: str) -> Statement:
        """Return the statement called ``name`` ("sbom"); errors as :meth:`read`, and Malformed."""
        path = f"statements/{name}.json"
        return intoto.parse(self.read(path), path)

    def measurements(self) -> tuple[Measurement, ...]:
        """Return every release tuple; a release of firmware alone has none."""
        if "measurements" not in dict(self.index.statements):
            return ()
        return from_statement(self.statement("measurements"))

    def products(self) -> dict[str, bytes]:
        """Return the bytes of every product, by product name."""
        return {name: self.read(path) for name, path in self.index.products}

    def product_digests(self) -> dict[str, Digest]:
        """Return the digest of every product's file, by product name."""
        return {name: self.digest(path) for name, path in self.index.products}

    def firmware_digests(self) -> dict[str, Digest]:
        """Return the digest of every firmware file, by its path in the release."""
        return {entry.path: self.digest(entry.path) for entry in self.index.under("firmware/")}

    def contents(self) -> dict[str, Contents]:
        """Return the contents lists, by product name; each says itself which product it is of."""
        found: dict[str, Contents] = {}
        for entry in self.index.under("contents/"):
            contents = parse_contents(self.read(entry.path), entry.path)
            if entry.path != f"contents/{contents.product}.json":
                want = f"the list of {PurePosixPath(entry.path).stem}"
                raise Malformed(entry.path, at="product", want=want, got=contents.product)
            found[contents.product] = contents
        return found

    def derivations(self) -> tuple[tuple[str, bytes], ...]:
        """Return the derivations' texts by the store path that each file is named for."""
        return tuple(
            (f"{nixstore.STORE_DIR}/{PurePosixPath(entry.path).name}", self.read(entry.path))
            for entry in self.index.under("derivations/")
        )

    def released(self) -> Released:
        """Return what the provenance speaks of."""
        digests = {path: self.digest(path) for _, path in self.index.products}
        return Released(
            products=digests,
            recipe=self.read("recipe.yaml"),
            derivations=self.derivations(),
            firmware=self.firmware_digests(),
        )

    def beside(self, folder: str) -> Iterator[str]:
        """The paths of the plain files in ``bundles``, ``links`` or ``promotions``, which no index covers."""
        where = self.path / folder
        if where.is_dir():
            yield from sorted(f"{folder}/{one.name}" for one in where.iterdir() if one.is_file())

    def _entry(self, path: str) -> IndexedFile:
        entry = self.index.file(path)
        if entry is None:
            finding = Finding(
                "release.file.extra", path, want="a file that the index names", got="no such entry"
            )
            raise NotGenuine(f"{self.path}: {finding.message}", findings=(finding,))
        return entry

    def _compare(self, entry: IndexedFile, got: Digest) -> None:
        if got != entry.digest:
            finding = Finding("release.file.changed", entry.path, want=str(entry.digest), got=str(got))
            raise NotGenuine(f"{self.path}: {finding.message}", findings=(finding,))
