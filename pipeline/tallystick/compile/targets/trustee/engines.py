"""The Rego engines that a proof runs: regorus as Trustee does, and another one where it is installed.

The clock and the Reference Values are given from outside; the policy's bytes are evaluated as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

ReferenceValues = Mapping[str, Any]


class RegoError(Exception):
    """The engine would not take the policy, or an evaluation failed: Trustee then denies."""


class Missing(Exception):
    """The policy has no such rule."""


class Engine(Protocol):
    """One loaded policy."""

    def evaluate(self, rule: str, document: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """Return what ``data.policy.<rule>`` is for the input ``document``; None when it is undefined.

        Raises:
            RegoError: evaluation failed. Missing: there is no such rule.
        """


class Regorus:
    """The engine that Trustee uses, through the wheel ``gordon-to-regorus``. Built-in errors are strict."""

    name = "regorus"

    def __init__(self, policy: str, values: ReferenceValues, now: datetime) -> None:
        import regorus

        self._engine = regorus.Engine()
        self.values = values  # what the RVPS holds; may be exchanged between two evaluations
        nanoseconds = int(now.timestamp() * 1_000_000_000)
        try:
            self._engine.add_policy("", policy)
            self._engine.add_extension("time.now_ns", 0, lambda: nanoseconds)
            self._engine.add_extension("query_reference_value", 1, lambda name: self.values.get(name))
        except BaseException as error:
            raise _failed(error) from None
        self._data = "{}"

    def evaluate(self, rule: str, document: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """As :class:`Engine` says."""
        try:
            wanted = json.dumps(data)
            if wanted != self._data:
                self._engine.clear_data()
                self._engine.add_data_json(wanted)
                self._data = wanted
            self._engine.set_input_json(json.dumps(document))
            found = self._engine.eval_rule_as_json(f"data.policy.{rule}")
        except BaseException as error:
            if "not a valid rule path" in str(error):
                raise Missing(rule) from None
            raise _failed(error) from None
        return None if found == '"<undefined>"' else json.loads(found)


class RegoCpp:
    """rego-cpp, through ``regopy``: other code, and other mistakes. Its clock is the rule ``now_ns``."""

    name = "rego-cpp"

    def __init__(self, policy: str, values: ReferenceValues, now: datetime) -> None:
        import regopy

        self._engine = regopy.Interpreter()
        self._nanoseconds = int(now.timestamp() * 1_000_000_000)
        shim = "\nquery_reference_value(id) := object.get(data.reference, id, null)\n"
        try:
            self._engine.add_module("policy", policy + shim)
            self._engine.add_data({"reference": dict(values)})
        except BaseException as error:
            raise _failed(error) from None

    def evaluate(self, rule: str, document: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """As :class:`Engine` says. A rule that is not there is undefined here."""
        bound = f"x = data.policy.{rule} with data.policy.now_ns as {self._nanoseconds}"
        for name, value in data.items():
            bound += f' with data["{name}"] as {json.dumps(value)}'
        try:
            self._engine.set_input(dict(document))
            found = json.loads(str(self._engine.query(bound)))
        except BaseException as error:
            raise _failed(error) from None
        return found.get("bindings", {}).get("x") if isinstance(found, dict) else None


def second_opinion() -> type[RegoCpp] | None:
    """Return the second engine, or None where it is not installed."""
    try:
        import regopy  # noqa: F401
    except ImportError:
        return None
    return RegoCpp


def _failed(error: BaseException) -> RegoError:
    """Return what an engine's failure is to us. A panic inside it is no ``Exception``, and no crash of ours."""
    if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
        raise error
    lines = [line for line in str(error).split("\n") if line.startswith("error:")]
    return RegoError(lines[0] if lines else str(error).strip().split("\n")[0])
