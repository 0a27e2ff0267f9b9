"""Two engines of CEL, where they are installed: their own code, and their own mistakes.

``cel-python`` is written in Python, ``common-expression-language`` wraps cel-rust. Google's own is closed: it takes a
token's claims as JSON, as these do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Evaluate = Callable[[Mapping[str, Any]], bool]  # a token's claims -> whether the condition is true of them


def engines(condition: str) -> dict[str, Evaluate]:
    """Return the installed engines by name, each with ``condition`` loaded.

    Raises:
        ValueError: an engine does not take the condition.
    """
    found: dict[str, Evaluate] = {}
    for name, load in (("cel-python", _celpy), ("cel-rust", _rust)):
        made = load(condition)
        if made is not None:
            found[name] = made
    return found


def _celpy(condition: str) -> Evaluate | None:
    try:
        import celpy
        from celpy.adapter import json_to_cel
    except ImportError:
        return None
    try:
        environment = celpy.Environment()
        program = environment.program(environment.compile(condition))
    except Exception as error:
        raise ValueError(f"cel-python: {error}") from None

    def evaluate(claims: Mapping[str, Any]) -> bool:
        try:
            answer = program.evaluate({"assertion": json_to_cel(dict(claims))})
        except Exception:  # a missing claim, a wrong type: each is an error, and admits nobody
            return False
        return bool(isinstance(answer, celpy.celtypes.BoolType) and answer)

    return evaluate


def _rust(condition: str) -> Evaluate | None:
    try:
        import cel
    except ImportError:
        return None
    try:
        program = cel.compile(condition)
    except BaseException as error:  # a panic inside is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise ValueError(f"cel-rust: {error}") from None

    def evaluate(claims: Mapping[str, Any]) -> bool:
        try:
            return program.execute({"assertion": dict(claims)}) is True
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
                raise
            return False

    return evaluate
