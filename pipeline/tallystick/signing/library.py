"""sigstore-python's verifier, unmodified, with its many ways to say no turned into one.

Its modules take a third of a second to import, so they are imported when the first bundle is verified.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from tallystick.core.errors import Malformed, TallystickError
from tallystick.signing.refusals import refusal

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.x509 import Certificate
    from sigstore.verify.verifier import Verifier

T = TypeVar("T")
_CHAINS = 256  # certificates remembered, each with one moment

# What sigstore-python 4.5.1 says, and our code for it. Anything else is "bundle.refused": refused all the same.
_CODES = (
    (r"SET:", "bundle.set"),
    (r"inclusion proof (has wrong size|contains invalid root hash):", "bundle.log-proof"),
    (r"[Cc]heckpoint|invalid root hash signature|malformed Note", "bundle.checkpoint"),
    (r"SCT|signed certificate timestamp|certificate timestamp,", "bundle.sct"),
    (r"timestamp certificate chain|signing cert|[Kk]ey usage|Extended usage", "bundle.certificate"),
    (r"log entry|transparency log", "bundle.log-entry"),
    (r"invalid signature|Signature is invalid", "bundle.signature"),
    (r"message digest", "bundle.subject"),
    (r"[Tt]imestamp|verified time", "bundle.timestamp"),
)


class Exactly:
    """A policy for sigstore-python: this certificate, whose identity was compared exactly."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate

    def verify(self, cert: Certificate) -> None:
        """Raise unless ``cert`` is the certificate that was compared."""
        from sigstore.errors import VerificationError

        if cert != self._certificate:
            raise VerificationError("signing cert is not the one whose identity was compared")


def make(trusted_root: bytes) -> Verifier:
    """Return sigstore-python's own verifier over ``trusted_root``, which parses each key once and not per bundle.

    Raises:
        Malformed: sigstore-python does not read it.
    """
    with _uncollected():
        from sigstore.models import TrustedRoot
        from sigstore.verify.verifier import Verifier
        from sigstore_models.trustroot.v1 import TrustedRoot as Model

    class Remembering(TrustedRoot):
        rekor_keyring = lru_cache(TrustedRoot.rekor_keyring)
        ct_keyring = lru_cache(TrustedRoot.ct_keyring)

    class Once(Verifier):
        """Builds a certificate's chain once for each moment: a release's bundles share one certificate."""

        _chains: dict[tuple[Certificate, datetime], list[Certificate]]

        def _verify_chain_at_time(self, certificate: Certificate, timestamp_result: Any) -> list[Certificate]:
            known, key = self.__dict__.setdefault("_chains", {}), (certificate, timestamp_result.time)
            if key not in known:
                found = super()._verify_chain_at_time(certificate, timestamp_result)  # one that fails raises
                if len(known) >= _CHAINS:
                    known.clear()
                known[key] = found
            return list(known[key])

    try:
        return Once(trusted_root=Remembering(Model.from_json(trusted_root)))
    except Exception as error:
        raise Malformed(
            "trusted root", at="document", want="one sigstore-python reads", got=str(error)
        ) from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Load modules without looking for garbage among them: a tenth of the time, and there is none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def verify_dsse(verifier: Verifier, data: bytes, certificate: Certificate) -> tuple[str, bytes]:
    """Return the payload type and payload of the bundle's envelope, or raise anything at all."""
    from sigstore.models import Bundle

    return verifier.verify_dsse(Bundle.from_json(data), Exactly(certificate))


def verify_artifact(verifier: Verifier, data: bytes, certificate: Certificate, sha256: bytes) -> None:
    """Check a signature over the file with that digest, or raise anything at all."""
    from sigstore.hashes import Hashed
    from sigstore.models import Bundle
    from sigstore_models.common.v1 import HashAlgorithm

    hashed = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=sha256)
    verifier.verify_artifact(hashed, Bundle.from_json(data), Exactly(certificate))


def ask(call: Callable[[], T], what: str) -> T:
    """Return what the library answers; whatever it raises means that the bundle is not genuine.

    It raises TypeError for an odd key and ValueError for odd bytes, and its Rust parts may panic, which Python
    sees as a BaseException.
    """
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, TallystickError):
        raise
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
        code = next((code for pattern, code in _CODES if re.search(pattern, str(error))), "bundle.refused")
        raise refusal(what, code, "sigstore-python", "a bundle that verifies", said) from error
