"""Why TDX and Nitro registers differ: what a log, a search, or the registers themselves show, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from measure.test_tdx import PAGE, firmware_with
from support_eventlog import event, header
from support_pe import kernel, uki

from tallystick.core.digests import Algorithm, Digest
from tallystick.formats import eventlog
from tallystick.formats import uki as uki_format
from tallystick.measure import tdx, tdx_boot, why_nitro, why_tdx
from tallystick.measure.registers import replay

TDVF = firmware_with([(0, 2 * PAGE, 0xFFFFE000, 2 * PAGE, 0, 1)])
OTHER = firmware_with([(0, PAGE, 0xFFFFF000, PAGE, 0, 1)])
ONE, TWO = Digest.of(b"one"), Digest.of(b"two")


def expected(**more):
    return why_tdx.Expected(
        firmware=ONE,
        files={ONE: TDVF},
        page_order="one-pass",
        events=tdx_boot.boot_events(uki_format.parse(uki())),
        **more,
    )


def seen(base, **changes):
    """The registers of a boot of a changed image, and its log."""
    events = tdx_boot.boot_events(uki_format.parse(uki(**changes)))
    return _differ(base, events), _log(events)


def _differ(base, events):
    want, got = (replay(one, 4, Algorithm.SHA384) for one in (base.events, events))
    return {f"quote.body.rtmr_{n}": got[n].value for n in range(1, 4) if got[n] != want[n]}


def _log(events):
    lines = [
        event(e.register + 1, 5, e.what.encode(), ("sha384",), {"sha384": e.digest.value}) for e in events
    ]
    return eventlog.parse(header(("sha384",)) + b"".join(lines))


def named(found):
    return [(one.where.value, one.kind, one.name) for one in found[0]]


def left(found):
    return [name for one in found[1] for name in one.values]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"cmdline": b"other"}, [("image", "command-line", ".cmdline")]),
        ({"initrd": b"other"}, [("image", "initrd", ".initrd")]),
        ({"linux": kernel(b"other")}, [("image", "kernel", ".linux")]),
        ({"osrel": b"ID=other\n"}, [("image", "image", "uki")]),
    ],
)
def test_a_changed_image_is_named_from_its_log(changes, wanted):
    base = expected()
    differ, log = seen(base, **changes)
    assert named(why_tdx.explain(base, differ, log)) == wanted
    silent = why_tdx.explain(base, differ, None)
    assert (named(silent), left(silent)) == ([], sorted(differ))


def test_a_command_line_from_outside_is_the_hosts():
    base = expected()
    events = tuple(
        replace(e, digest=Digest.of(b"x", Algorithm.SHA384)) if "LoadOptions" in e.what else e
        for e in base.events
    )
    found = why_tdx.explain(base, _differ(base, events), _log(events))
    assert named(found) == [("host", "command-line", ".cmdline")]


def test_a_log_of_another_boot_tells_nothing():
    base = expected()
    differ, _ = seen(base, initrd=b"other")
    _, log = seen(base, initrd=b"another")
    found = why_tdx.explain(base, differ, log)
    assert (named(found), left(found)) == ([], sorted(differ))


def test_events_without_a_rule_stay_unexplained():
    base = expected()
    events = (*base.events, replace(base.events[0], register=2))
    found = why_tdx.explain(base, _differ(base, events), _log(events))
    assert (named(found), left(found)) == ([], ["quote.body.rtmr_2"])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (tdx.mrtd(TDVF).two_pass, [("host", "page_order", "page_order")]),
        (tdx.mrtd(OTHER).one_pass, [("host", "firmware", "firmware")]),
        (Digest.of(b"x", Algorithm.SHA384), []),
    ],
)
def test_mrtd_is_searched_in_firmware_and_page_order(value, wanted):
    base = replace(expected(), files={ONE: TDVF, TWO: OTHER})
    found = why_tdx.explain(base, {"quote.body.mr_td": value.value}, None)
    assert named(found) == wanted
    assert left(found) == ([] if wanted else ["quote.body.mr_td"])


ZEROS = "00" * 48
PCRS = {"pcr0": "aa" * 48, "pcr1": "bb" * 48, "pcr2": "cc" * 48, "pcr8": ZEROS}


@pytest.mark.parametrize(
    ("changes", "kinds", "unexplained"),
    [
        ({"pcr0": "01", "pcr1": "02"}, ["kernel, command line or first ramdisk"], []),
        ({"pcr0": "01", "pcr2": "02"}, ["ramdisks after the first"], []),
        ({"pcr8": "01"}, ["signer"], []),
        ({"pcr0": ZEROS, "pcr1": ZEROS, "pcr2": ZEROS}, ["debug-mode"], []),
        ({"pcr0": "01"}, [], ["pcr0"]),
        ({"pcr1": "01"}, [], ["pcr1"]),
    ],
)
def test_an_enclaves_registers_say_which_part_differs(changes, kinds, unexplained):
    causes, rest = why_nitro.explain(PCRS, PCRS | changes)
    assert [one.kind for one in causes] == kinds
    assert [name for one in rest for name in one.values] == unexplained


@given(st.dictionaries(st.sampled_from(sorted(PCRS)), st.binary(min_size=1, max_size=2).map(bytes.hex)))
def test_every_differing_register_is_moved_or_unexplained(changes):
    causes, rest = why_nitro.explain(PCRS, PCRS | changes)
    moved = {name for one in causes for name in one.moves}
    assert moved | {name for one in rest for name in one.values} == set(changes)
