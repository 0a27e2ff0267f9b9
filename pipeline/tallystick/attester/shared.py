"""A shared key, gathered: this machine proves itself to one broker after the other until enough shares are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tallystick.core.errors import NotGenuine, Refused, TallystickError, Unreachable
from tallystick.core.findings import Finding
from tallystick.handshake import shares
from tallystick.handshake.shares import Share, SharedKey

Fetch = Callable[[str], bytes]  # a key's resource path -> what one broker released for it


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Gathered:
    """The secret, who gave a share, and who did not and why."""

    secret: bytes
    gave: tuple[str, ...]
    failed: tuple[Finding, ...]

    def __repr__(self) -> str:
        return f"Gathered(from {', '.join(self.gave)})"


def gather(shared: SharedKey, brokers: Mapping[str, Fetch]) -> Gathered:
    """Return the secret of ``shared`` from the first brokers that release a share of it.

    A broker that refuses, does not answer, or gives something else than its share is named, and the next one is asked.

    Raises:
        Refused: too few gave one, and one at least refused (``shares.refused``).
        NotGenuine: too few, and one at least gave a wrong share (``share.wrong``).
        Unreachable: too few, since the others did not answer (``shares.unreachable``).
    """
    found: dict[int, Share] = {}
    gave: list[str] = []
    errors: list[tuple[str, TallystickError]] = []
    for name, fetch in brokers.items():
        try:
            share = shares.accepted(shared, fetch(shared.key))
            if share.number in found:
                raise NotGenuine("this share came from another broker already", code="share.twice")
        except TallystickError as error:
            errors.append((name, error))
            continue
        found[share.number] = share
        gave.append(name)
        if len(found) == shared.threshold:
            secret = shares.combine(shared, tuple(found.values()))
            return Gathered(secret=secret, gave=tuple(gave), failed=_findings(errors))
    raise _too_few(shared, len(found), errors)


def _findings(errors: list[tuple[str, TallystickError]]) -> tuple[Finding, ...]:
    return tuple(Finding(error.code, name, "its share", error.message) for name, error in errors)


def _too_few(shared: SharedKey, found: int, errors: list[tuple[str, TallystickError]]) -> TallystickError:
    findings = _findings(errors)
    names = (
        "; ".join(f"{finding.where}: {finding.got}" for finding in findings) or "no more brokers were named"
    )
    words = f"{found} of the {shared.threshold} shares of {shared.key} that open it: {names}"
    kinds = [type(error) for _, error in errors]
    if any(issubclass(kind, NotGenuine) for kind in kinds):
        return NotGenuine(words, code="share.wrong", findings=findings)
    if any(issubclass(kind, Unreachable) for kind in kinds) and not any(
        issubclass(k, Refused) for k in kinds
    ):
        return Unreachable(words, code="shares.unreachable", findings=findings)
    return Refused(words, code="shares.refused", findings=findings)
