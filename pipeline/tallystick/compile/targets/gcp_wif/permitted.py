"""Which tokens of Confidential Space are permitted, from the normal form alone."""

from __future__ import annotations

from tallystick.compile.logic.formula import ABSENT, Atom, Formula, every, some
from tallystick.compile.logic.tests import Among
from tallystick.compile.targets.claims import asked, meets, rows
from tallystick.compile.targets.gcp_wif.words import DIGEST, NAME, OMITTED, PLATFORM, WORDS
from tallystick.core import expect as expects
from tallystick.policy.normal import NormalForm


def common(form: NormalForm) -> Formula:
    """Return what every token must say. A list that Google leaves out when it is empty is empty when absent."""
    parts: list[Formula] = []
    for one in asked(form, NAME, PLATFORM):
        wanted = meets(one.path, one.expect)
        if one.path in OMITTED and isinstance(one.expect, expects.Only):
            wanted = some([Atom(one.path, Among(ABSENT)), wanted])
        parts.append(wanted)
    return every(parts)


def images(form: NormalForm) -> Formula:
    """Return of which images the keys may be."""
    return some(Atom(DIGEST, Among(dict(row.pins)[DIGEST])) for row in rows(form, NAME, WORDS))
