"""The proof of Keylime policies: each agent's emitted policies in a model of the verifier, on the whole domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from tallystick.compile.domain import Case, released
from tallystick.compile.targets.base import Proof
from tallystick.compile.targets.common import trial, view
from tallystick.compile.targets.common.trial import Trial
from tallystick.compile.targets.keylime import emit, verifier
from tallystick.compile.targets.keylime.choice import Keylime
from tallystick.compile.targets.keylime.verifier import BOOT_AGGREGATE, ImaEntry
from tallystick.core import jsondoc
from tallystick.core.errors import Malformed
from tallystick.core.findings import Finding
from tallystick.policy.normal import NormalForm

ENGINE = "model of keylime.tpm.check_pcrs"
_OTHER = "ab" * 32
_PIVOT = 4  # a register that tells most images apart; agents are found by it


def prove(files: Mapping[str, bytes], form: NormalForm, choice: Keylime, now: datetime) -> Proof:
    """Return what was shown of ``files``; raises :class:`Unproven` when it is not what was released."""
    right = emit.emit(form, choice).files
    trial.expect_files(emit.NAME, files, right)
    proof = evaluate(files, form)
    trial.expect_equal(emit.NAME, files, right)
    return proof


def evaluate(files: Mapping[str, bytes], form: NormalForm) -> Proof:
    """Return what evaluating the policies alone shows.

    Raises:
        Unproven: as :func:`prove`, but for what no evidence in the domain tells apart.
    """
    agents = Agents(files[emit.AGENTS])
    left = view.served(form, emit.NAME)
    run = Trial(emit.NAME, left, quote, agents.accepts)
    run.domain(agents.literals(), agents.suspects(left))
    for case in released(left):
        agents.check_one(run, quote(case) or {})
    agents.check_runtime(run)
    run.finish()
    return run.proof((ENGINE,))


def quote(case: Case) -> dict[int, Any] | None:
    """Return the registers that a quote shows; an absent claim is a register that was not quoted."""
    if case.devices:
        return None
    if case.kind != "tpm-quote":
        return {}
    return {
        int(path[3:]): value
        for path, value in case.claims.items()
        if path.startswith("pcr") and path[3:].isdigit() and value is not None
    }


class Agents:
    """Every agent policy of the emitted file."""

    def __init__(self, data: bytes) -> None:
        try:
            found = jsondoc.loads(data, "agents")["agents"]
            self.tpm = {name: verifier.read_tpm_policy(one["tpm_policy"]) for name, one in found.items()}
            self.runtime = {
                name: verifier.read_runtime_policy(one["runtime_policy"]) for name, one in found.items()
            }
        except Malformed as error:
            raise trial.unreadable(
                emit.NAME, emit.AGENTS, "policies that Keylime takes", error.message
            ) from None
        except (KeyError, TypeError, AttributeError) as error:
            raise trial.unreadable(
                emit.NAME, emit.AGENTS, "agents with their policies", repr(error)
            ) from None
        self._by_pivot: dict[str | None, list[str]] = {}
        for name, policy in self.tpm.items():
            for value in policy.get(_PIVOT, (None,)):
                self._by_pivot.setdefault(value, []).append(name)

    def holding(self, pcrs: Mapping[int, Any]) -> list[str]:
        """Return the agent policies under which a quote with these registers holds."""
        value = pcrs.get(_PIVOT)
        wanted = value if isinstance(value, str) else None
        names = {*self._by_pivot.get(wanted, ()), *self._by_pivot.get(None, ())}
        return sorted(name for name in names if verifier.pcrs_hold(self.tpm[name], pcrs))

    def accepts(self, pcrs: Mapping[int, Any]) -> bool:
        """Say whether any agent with these registers would get its payload."""
        return bool(self.holding(pcrs))

    def literals(self) -> list[str]:
        """Return every value that a policy lists."""
        return sorted(
            {value for policy in self.tpm.values() for values in policy.values() for value in values}
        )

    def suspects(self, form: NormalForm) -> Iterator[Case]:
        """Yield the registers that each policy accepts: its first values, and every other value once."""
        base = next((case.claims for case in released(form)), {})
        for name, policy in self.tpm.items():
            first = {f"pcr{n:02}": values[0] for n, values in policy.items() if values}
            yield Case("tpm-quote", f"what agent {name} lists", {**base, **first})
            for register, values in policy.items():
                for value in values[1:]:
                    claims = {**base, **first, f"pcr{register:02}": value}
                    yield Case("tpm-quote", f"what agent {name} lists for {register}", claims)

    def check_one(self, run: Trial, pcrs: Mapping[int, Any]) -> None:
        """A released machine is accepted by one agent policy, and no register has two values in it."""
        found = self.holding(pcrs)
        if len(found) != 1:
            run.wrong(
                Finding("prove.agents", "agents of one tuple", want="one", got=", ".join(found) or "none")
            )

    def check_runtime(self, run: Trial) -> None:
        """A runtime policy accepts the boot aggregate of the very registers that are pinned, and nothing else."""
        for name, policy in self.runtime.items():
            pcrs = {register: values[0] for register, values in self.tpm[name].items() if values}
            whole = set(range(10)) <= set(pcrs)
            right = ImaEntry(BOOT_AGGREGATE, verifier.boot_aggregate(pcrs) if whole else _OTHER)
            known = [
                ImaEntry(path, digest) for path, digests in policy["digests"].items() for digest in digests
            ]
            for what, entries, holds in (
                ("its boot aggregate", [right], whole),
                ("another boot aggregate", [ImaEntry(BOOT_AGGREGATE, _OTHER)], False),
                ("a file more", [right, ImaEntry("/usr/bin/sh", _OTHER)], False),
                ("a file of the same digest", [ImaEntry("/usr/bin/sh", right.digest)], False),
                *((f"{one.path} {one.digest}", [one], whole and one == right) for one in known),
            ):
                got = verifier.entries_hold(policy, entries)
                run.surrounding(f"agent {name}: an IMA list with {what}", entries, got=got, right=holds)
            loose = [key for key in ("excludes", "keyrings", "ima-buf", "verification-keys") if policy[key]]
            if loose or policy["ima"].get("ignored_keyrings"):
                where = f"agent {name}: runtime policy"
                run.wrong(
                    Finding("prove.runtime", where, want="nothing excluded or ignored", got=", ".join(loose))
                )
