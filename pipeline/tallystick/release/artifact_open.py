"""One artifact of an artifact release, decrypted into a file that appears whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tallystick.core.errors import Misuse, Unreachable
from tallystick.core.files import read_file
from tallystick.handshake import artifact, wrapping
from tallystick.handshake.manifest import Artifact, Manifest
from tallystick.release import artifact_seal


def decrypt(folder: Path, manifest: Manifest, name: str, broker_key: bytes, output: Path) -> Artifact:
    """Write the plaintext of the artifact ``name`` to ``output``, mode 0600, and return its entry.

    Raises:
        Misuse: there is no such artifact or file. NotGenuine: another key, or files that are not the manifest's.
        Unreachable: the disk refuses.
    """
    one = next((one for one in manifest.artifacts if one.name == name), None)
    if one is None:
        known = ", ".join(one.name for one in manifest.artifacts)
        raise Misuse(f"{folder} has no artifact {name}; it has {known}", code="artifact.unknown")
    place = folder / artifact_seal.FILES / one.file
    wrapped = wrapping.parse(
        read_file(place.with_name(one.file + wrapping.SUFFIX), "wrapped key", max_bytes=wrapping.MAX_BYTES)
    )
    try:
        source = place.open("rb")
    except FileNotFoundError:
        raise Misuse(f"there is no file {place}", code="file.missing") from None
    except OSError as error:
        raise Unreachable(f"{place}: {error.strerror}", code="file.unreadable") from None
    with source:
        header = artifact.read_header(source)
        data_key = wrapping.unwrap(wrapped, broker_key, wrapping.binding(manifest, one, header))
        source.seek(0)
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
            try:
                with os.fdopen(handle, "wb") as sink:
                    artifact.decrypt(source, sink, data_key, one.plaintext)
                    sink.flush()
                    os.fsync(sink.fileno())
                os.replace(temporary, output)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise Unreachable(f"{output}: {error.strerror}", code="file.unwritable") from None
    return one
