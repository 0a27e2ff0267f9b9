"""What the service asks of the kernel, so that its memory, which holds keys, stays its own.

Source: getrlimit(2), RLIMIT_CORE; core(5), which pipes a core to a program whatever that limit says; prctl(2),
PR_SET_DUMPABLE; ptrace(2), "Ptrace access mode checking".
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4
_NOT_DUMPABLE = 0


def keep_memory_private() -> bool:
    """Allow no core dump of this process, to no file and no program, and no debugger of its own user.

    Returns whether the kernel took all of it. Children inherit it, until they run another program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    return prctl is not None and prctl(_PR_SET_DUMPABLE, _NOT_DUMPABLE, 0, 0, 0) == 0
