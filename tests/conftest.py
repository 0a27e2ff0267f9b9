"""What every test may use, and what holds for all of them."""

from __future__ import annotations

import os
import signal

import pytest

# A runner that was started in the background ignores Ctrl-C, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Reasons for which a test may be left out in CI: programs that the registries do not have, or not in a minute.
CI_MAY_LACK = ("TALLY_KBS_CLIENT", "no nitro-cli", "no oras", "no cargo-auditable")


def pytest_make_parametrize_id(val, argname):
    """Name a case by its argument where its bytes are made at test time: every worker must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Let no test be skipped in CI: what a test needs is installed there, or the test fails and says what it lacks."""
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
        if not any(known in reason for known in CI_MAY_LACK):
            report.outcome, report.longrepr = "failed", f"left out in CI: {reason}"
    return report
