"""What the demo says at its end: a page of text for a person, or one JSON document."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tallystick.cli.demo.story import Told

_SHOWN = 16  # hex digits of a digest in the summary


def document(told: Told) -> dict[str, Any]:
    """Return the whole story as plain values."""
    made = asdict(told)
    made["workdir"] = str(told.workdir)
    del made["promotion"]  # on the page; `tally channel show` prints it
    return made


def words(told: Told) -> str:
    """Return the summary that a person reads."""
    proofs = ", ".join(
        f"{p['target']} released {p['released']} · accepted {p['accepted']}" for p in told.proofs
    )
    lines = [
        "",
        f"One machine got its keys, {len(told.refused)} attempts got none ({told.seconds:.0f} s).",
        "",
        f"  release    {told.release}",
        f"  policies   {proofs}",
        f"  key        in the guest {told.key_seconds:.1f} s after power-on, under software emulation",
        f"  answer     {told.prompt + told.answer!r}",
        f"  log        {told.log.get('size', '?')} leaves, every decision in it",
        "",
        "  refused:",
    ]
    for one in told.refused:
        lines.append(f"    - {one.tried}")
        lines.append(f"        {one.place}: want {_brief(one.want)}, got {_brief(one.got)}  [{one.code}]")
        if one.note:
            lines.append(f"        {one.note}")
    lines += ["", f"  read it as a page: {told.page}"] if told.page else []
    return "\n".join(lines)


def _brief(text: str) -> str:
    return text if len(text) <= 48 else text[:_SHOWN] + "…"
