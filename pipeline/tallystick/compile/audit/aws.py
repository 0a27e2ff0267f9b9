"""An audit of AWS KMS key policies: who gets plaintext from KMS without the attestation that was meant.

Source: AWS KMS Developer Guide, "Condition keys for attested platforms", "Default key policy", "Grants".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tallystick.compile.audit.asking import Asker, assumed, tuples
from tallystick.compile.audit.records import Audited, PermissivePath, ReferenceValues
from tallystick.compile.logic.formula import ABSENT, Atom, Formula, Value, every, negated, some
from tallystick.compile.logic.tests import Among, Present
from tallystick.compile.targets.aws_kms import actions, document, model
from tallystick.compile.targets.aws_kms.document import ConditionEntry, KeyPolicy, Statement
from tallystick.compile.targets.aws_kms.operators import Operator, operator
from tallystick.compile.targets.aws_kms.prove import request
from tallystick.compile.targets.aws_kms.words import SPELLING, WORDS

_ZERO, _OTHER = "0" * 96, "ab" * 48
_IMAGE = "kms:recipientattestation:imagesha384"
_PINS = (_IMAGE, *(f"kms:recipientattestation:pcr{number}" for number in (1, 2, 8)))
_TPM = {number: f"kms:recipientattestation:nitrotpmpcr{number}" for number in (4, 7, 12)}
_LIMITS = (
    "grants on the key (aws kms list-grants), and identity policies of the account",
    "whether the registers that are pinned are those of a debug build, or of anything that was reviewed",
)
_BYPASS_CODES = {
    "kms:CreateGrant": "aws.create-grant",
    "kms:ReEncryptFrom": "aws.re-encrypt",
    "kms:ReplicateKey": "aws.replicate",
}


class Audit:
    """The auditor of key policies."""

    name = "aws-key-policy"

    def recognises(self, data: bytes, file_name: str) -> bool:
        """Say whether it is a policy with statements about KMS."""
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return False
        return isinstance(value, dict) and "Statement" in value

    def audit(self, data: bytes, reference: ReferenceValues | None) -> Audited:
        """Return every way to plaintext without attestation, and what is accepted beside ``reference``."""
        policy = document.read(data)
        decision = model.decision(policy)
        asker = Asker(accepted=decision, shown=_shown)
        found = [path for n, one in enumerate(policy.statements) for path in _statement(policy, one, n)]
        found += [*_bypasses(asker), *_registers(policy, asker), *_denies(policy, asker)]
        released = accepted = None
        if reference is None:
            found += _mixed(policy, asker)
        else:
            data_only = every([decision, Atom(model.ACTION, Among(*actions.ATTESTED))])
            names = {path: key for words in WORDS.values() for path, key in words.names.items()}
            extra, accepted = Asker(accepted=data_only, shown=_shown).unreleased(
                "aws.not-released",
                "one Allow for each released tuple, and a Deny for each register",
                tuples(reference, names, _folded),
                tuple(sorted(SPELLING)),
            )
            released = len(reference.tuples)
            found += extra
        limits = [*_LIMITS, *(f"{place}: taken for the worst" for place in model.exact(policy))]
        return Audited(
            language=self.name, paths=tuple(found), released=released, accepted=accepted, limits=tuple(limits)
        )


def _folded(key: str, value: Any) -> Formula:
    return Atom(key, Operator("", "StringEqualsIgnoreCase", if_exists=False, values=(str(value),)))


def _statement(policy: KeyPolicy, statement: Statement, number: int) -> Iterator[PermissivePath]:
    """One Allow that gives plaintext without any attestation document; or a Deny that denies nothing."""
    where = f"Statement[{number}]" + (f" ({statement.sid})" if statement.sid else "")
    if not statement.effective:
        if not statement.allow:
            yield PermissivePath(
                code="aws.no-effect",
                where=where,
                what="a Deny without Action or Resource: KMS stores it, and it denies nothing",
                fix='add "Action" and "Resource": "*"',
            )
        return
    if not statement.allow:
        return
    decision = every([model.decision(policy), model.matches(statement, _effective(policy, statement))])
    bare = [negated(Atom(key, Present())) for key in sorted({*SPELLING, *_recipient_keys(policy)})]
    code, what, fix = _reason(statement)
    yield from Asker(accepted=decision, shown=_shown).path(
        code, where, what, fix, Atom(model.ACTION, Among(*actions.ATTESTED)), *bare
    )


def _reason(statement: Statement) -> tuple[str, str, str]:
    """Return why an Allow works without a document: the trap that it fell into."""
    pin = "pin the registers with StringEqualsIgnoreCase, which a missing key does not meet"
    ours = [entry for entry in statement.conditions if entry.key.lower().startswith(model.RECIPIENT)]
    if statement.not_actions is not None:
        what = "NotAction allows every action that is not listed, those that give plaintext among them"
        return "aws.not-action", what, "list the actions that are meant, in Action"
    for entry in ours:
        code, what = _trap(entry)
        if code:
            return code, what, pin
    if any(model.is_account(name) for _, name in statement.principals or ()):
        what = "delegates to the account: any identity policy in it then gives plaintext without attestation"
        fix = "give the account no action that uses the key, or add a Deny for each register"
        return "aws.root-delegation", what, fix
    if any(name == "*" for _, name in statement.principals or ()):
        return "aws.anybody", "gives plaintext to every AWS account", f"name the workload's role, and {pin}"
    return "aws.no-attestation", "gives plaintext without an attestation document", pin


def _trap(entry: ConditionEntry) -> tuple[str, str]:
    found = operator(entry.operator, entry.values)
    where = f"{entry.operator} of {entry.key}"
    if found is None:
        return "aws.unmodelled", f"{where} is not understood here, and is taken for the worst"
    if found.if_exists:
        return "aws.if-exists", f"{where} holds when there is no attestation document"
    if found.quantifier == "ForAllValues:":
        return "aws.for-all-values", f"{where} holds when there is no attestation document"
    if found.negated:
        return "aws.missing-key", f"{where} is negated, and so holds when there is no attestation document"
    if found.base == "Null" and found.holds(ABSENT):
        return "aws.missing-key", f"{where} asks that there is no attestation document"
    return "", ""


def _bypasses(asker: Asker) -> Iterator[PermissivePath]:
    """Actions that no attestation document can come with."""
    for action, code in _BYPASS_CODES.items():
        fix = f"take {action} from every Allow, and deny it to everybody"
        yield from asker.path(
            code, action, f"allowed: {actions.BYPASSES[action]}", fix, Atom(model.ACTION, Among(action))
        )
    anybody = Atom(model.PRINCIPAL, _Anybody())
    yield from asker.path(
        "aws.put-key-policy",
        "kms:PutKeyPolicy",
        "anybody in an account with an identity policy for it can replace this policy",
        "allow it to named administrators only",
        Atom(model.ACTION, Among("kms:PutKeyPolicy")),
        anybody,
    )


class _Anybody:
    """A caller whom no policy names."""

    def holds(self, value: Value) -> bool:
        return isinstance(value, str) and value.endswith((":role/anybody", ":role/stranger", model.ANONYMOUS))

    def landmarks(self) -> tuple[Value, ...]:
        return ()


def _registers(policy: KeyPolicy, asker: Asker) -> Iterator[PermissivePath]:
    """What documents are accepted, where some document is asked for."""
    keys = _recipient_keys(policy)
    attested = Atom(model.ACTION, Among(*actions.ATTESTED))
    enclave = sorted(key for key in keys if "nitrotpm" not in key)
    tpm = sorted(key for key in keys if "nitrotpm" in key)
    for family, what in ((enclave, "a debug enclave's"), (tpm, "an instance's without measurements")):
        if family:
            zeros = [Atom(key, Among(_ZERO)) for key in family]
            yield from asker.path(
                "aws.zero-registers", ", ".join(family), f"{what} registers, all zero, are accepted",
                "take the zeros from the values: a debug enclave has no other registers", attested, *zeros,
            )  # fmt: skip
    if enclave:
        others = [Atom(key, Among(_OTHER)) for key in _PINS]
        yield from asker.path(
            "aws.image-not-pinned", ", ".join(enclave), "any enclave image is accepted",
            "pin ImageSha384 (PCR0), or PCR8 with who may sign images", attested, *others,
        )  # fmt: skip
    if tpm:
        others = [Atom(_TPM[4], Among(_OTHER)), Atom(_TPM[7], Among(_OTHER)), Atom(_TPM[12], Among(_OTHER))]
        yield from asker.path(
            "aws.image-not-pinned", ", ".join(tpm), "any image is accepted", "pin NitroTPMPCR4, 7 and 12",
            attested, *others,
        )  # fmt: skip
        yield from asker.path(
            "aws.nitrotpm-command-line", ", ".join(tpm),
            "the kernel's command line is whatever the instance's owner likes (GHSA-xrv8-2pf5-f3q7)",
            "pin NitroTPMPCR12 beside NitroTPMPCR4", attested,
            Atom(_TPM[4], Present()), Atom(_TPM[12], Among(_OTHER)),
        )  # fmt: skip


def _denies(policy: KeyPolicy, asker: Asker) -> Iterator[PermissivePath]:
    """A Deny of two registers at once fires only when both differ."""
    for number, statement in enumerate(policy.statements):
        if statement.allow or not statement.effective:
            continue
        negatives = [
            (entry.key.lower(), found)
            for entry in statement.conditions
            if entry.key.lower().startswith(model.RECIPIENT)
            and (found := operator(entry.operator, entry.values)) is not None
            and found.negated
        ]
        if len({key for key, _ in negatives}) < 2:
            continue
        differs = [Atom(key, found) for key, found in negatives]
        mixed = every([some(differs), negated(every(differs))])
        yield from asker.path(
            "aws.deny-two-registers", f"Statement[{number}]" + (f" ({statement.sid})" if statement.sid else ""),
            "denies only when every one of its registers differs", "one Deny for each register",
            Atom(model.ACTION, Among(*actions.ATTESTED)), mixed,
        )  # fmt: skip


def _mixed(policy: KeyPolicy, asker: Asker) -> Iterator[PermissivePath]:
    """Lists of values under several registers of one Allow: every mixture of them is accepted."""
    for number, statement in enumerate(policy.statements):
        lists = [
            (entry.key.lower(), entry.values)
            for entry in statement.conditions
            if entry.key.lower().startswith(model.RECIPIENT) and len(entry.values) > 1
        ]
        if not statement.allow or len(lists) < 2:
            continue
        (one, first), (other, second) = lists[:2]
        yield from asker.path(
            "aws.mixed-registers", f"Statement[{number}]" + (f" ({statement.sid})" if statement.sid else ""),
            "lists under several registers: values of different releases are accepted together",
            "one Allow for each released tuple (with --reference-values what is released decides)",
            Atom(model.ACTION, Among(*actions.ATTESTED)), Atom(one, Among(first[0])), Atom(other, Among(second[-1])),
        )  # fmt: skip


def _recipient_keys(policy: KeyPolicy) -> set[str]:
    return {
        entry.key.lower()
        for statement in policy.statements
        for entry in statement.conditions
        if entry.key.lower().startswith(model.RECIPIENT)
    }


def _effective(policy: KeyPolicy, statement: Statement) -> int:
    """Return the statement's number among those that have an effect, as the model counts them."""
    effective = [one for one in policy.statements if one.effective]
    return next(number for number, one in enumerate(effective) if one is statement)


def _shown(claims: Mapping[str, Value]) -> dict[str, Any]:
    return assumed(claims, request)
