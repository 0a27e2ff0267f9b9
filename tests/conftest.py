"""What every test may use."""


def pytest_make_parametrize_id(val, argname):
    """Name a case by its argument where its bytes are made at test time: every worker must collect the same names."""
    return argname if isinstance(val, bytes) else None
