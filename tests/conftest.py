"""What every test may use."""

import signal

# A runner that was started in the background ignores Ctrl-C, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val, argname):
    """Name a case by its argument where its bytes are made at test time: every worker must collect the same names."""
    return argname if isinstance(val, bytes) else None
