"""What each target decides of one piece of evidence, from its emitted bytes; None where it can not be shown such."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from compile.clouds import CHOICES as CLOUDS
from compile.machines import CHOICES, HERE, NOW, World, compiled

from tallystick.appraisal.appraise import appraise
from tallystick.appraisal.index import prepare
from tallystick.appraisal.records import Challenge
from tallystick.compile.domain import Case
from tallystick.compile.targets.broker import _REPORT_DATA, _claims
from tallystick.compile.targets.common import view
from tallystick.compile.targets.contrast import prove as contrast
from tallystick.compile.targets.corim import prove as corim
from tallystick.compile.targets.corim.reading import Values
from tallystick.compile.targets.intel_ita import prove as ita
from tallystick.compile.targets.keylime import prove as keylime
from tallystick.compile.targets.trustee import codec, simulate
from tallystick.compile.targets.trustee import emit as trustee_emit
from tallystick.compile.targets.trustee.choice import TrusteeTarget
from tallystick.compile.targets.trustee.engines import Regorus
from tallystick.compile.targets.trustee.simulate import Denied
from tallystick.compile.targets.vault_jwt import prove as vault
from tallystick.formats import corim as corim_format
from tallystick.policy import document
from tallystick.policy.model import Target
from tallystick.policy.normal import NormalForm
from tallystick.policy.platforms import platform

Decide = Callable[[Case], bool | None]
BROKER = Target(name="broker", place=HERE, waivers=())
TRUSTEE = TrusteeTarget(
    name="trustee", place=HERE, waivers=(), version="0.21", session_minutes=5, attestation_keys=()
)


def judge(target: str, form: NormalForm, choice: Target | None = None) -> Decide:
    """Compile ``form`` for ``target``, and return what its files decide."""
    chosen = choice or {"broker": BROKER, "trustee": TRUSTEE, **CHOICES, **CLOUDS}[target]
    return _JUDGES[target](compiled(target, form, chosen))


def _broker(made: World) -> Decide:
    # A broker reads no form without the strict defaults, which not every target here has words for.
    form = made.form
    assert document.write(form) == made.made.files["policy.json"]
    prepared, key = prepare(form), form.keys[0].key
    challenge = Challenge(report_data=_REPORT_DATA, issued_at=NOW)
    return lambda case: appraise(_claims(case, form, NOW), prepared, key, challenge, NOW).allowed


def _trustee(made: World) -> Decide:
    files: Mapping[str, bytes] = made.made.files
    values = simulate.reference_values(
        data for name, data in sorted(files.items()) if name.startswith("rvps_")
    )
    evidence = Regorus(files[trustee_emit.AS_POLICY].decode(), values, NOW)
    resource = Regorus(files[trustee_emit.RESOURCE_POLICY].decode(), {}, NOW)
    wanted = simulate.resource(made.form.keys[0].key)

    def decide(case: Case) -> bool | None:
        tee = codec.tee(TRUSTEE.version, case.kind)
        if tee is not None:
            if not codec.possible(tee, case.claims):
                return None
            case = replace(case, claims=codec.completed(tee, case.claims))
        try:
            submod = simulate.appraisal(evidence, simulate.tcb_claims(case, TRUSTEE.version))
        except Denied:
            return False
        return simulate.allows(resource, simulate.token(submod, NOW), wanted)

    return decide


def _ita(made: World) -> Decide:
    texts = [data.decode() for name, data in sorted(made.made.files.items()) if name.endswith(".rego")]
    policies = ita._Policies(texts, Regorus, NOW)
    return lambda case: policies.match(ita.document(case))


def _contrast(made: World) -> Decide:
    held = [
        contrast._read(name, data) for name, data in made.made.files.items() if name.startswith("manifest_")
    ]
    left = view.served(made.form, "contrast")
    coordinators = contrast._Coordinators(held, left.policy)
    return _shown(contrast._Reports(left, "Milan").of, coordinators.gives)


def _keylime(made: World) -> Decide:
    return _shown(keylime.quote, keylime.Agents(made.made.files["agents.json"]).accepts)


def _corim(made: World) -> Decide:
    values = Values(corim_format.parse(made.made.files["corim.cbor"]))
    machines = corim._Machines(view.served(made.form, "corim"))
    return _shown(machines.of, lambda shown: machines.match(values, shown, NOW))


def _vault(made: World) -> Decide:
    choice: Any = made.choice
    issued = vault._Issued(view.served(made.form, "vault-jwt"), choice, NOW)
    return _shown(issued.of, vault.Roles(made.made.files["roles.json"], NOW).admits)


def _cloud(words: Mapping[str, Any], translate: Any, accepted: Any) -> Decide:
    """A policy that was read back as a formula; None for evidence that the target is never shown."""
    from tallystick.compile.logic.formula import evaluate
    from tallystick.compile.targets.crossed import told

    kinds = {platform(name).evidence_kind: vocabulary for name, vocabulary in words.items()}

    def decide(case: Case) -> bool | None:
        vocabulary = kinds.get(case.kind)
        if vocabulary is None or not told(vocabulary, case):
            return None
        claims = translate(vocabulary, case)
        return None if claims is None else evaluate(accepted, claims)

    return decide


def _aws(made: World) -> Decide:
    from tallystick.compile.targets.aws_kms import choice, emit, model, prove, words
    from tallystick.compile.targets.aws_kms import document as key_policy

    accepted = model.decision(key_policy.read(made.made.files[emit.POLICY]))
    return _cloud(words.WORDS, prove._shown(made.form, choice.of(made.choice)), accepted)


def _azure(made: World) -> Decide:
    from tallystick.compile.logic.formula import every
    from tallystick.compile.targets.azure_skr import attestation, authorised, choice, emit, prove, words
    from tallystick.compile.targets.azure_skr import document as release_policy

    own = made.made.files.get(emit.ATTESTATION_POLICY)
    parts = [
        release_policy.formula(
            release_policy.read(made.made.files[emit.RELEASE_POLICY]), release_policy.Reading.STRICT
        )
    ]
    if own is not None:
        parts.append(authorised.authorised(attestation.read(own)))
    served = {rule.platform: words.WORDS[rule.platform] for rule in made.form.platforms}
    return _cloud(served, prove._shown(made.form, choice.of(made.choice), own), every(parts))


def _gcp(made: World) -> Decide:
    from tallystick.compile.targets.gcp_wif import choice, emit, prove, words
    from tallystick.compile.targets.gcp_wif.engines import engines

    loaded = engines(made.made.files[emit.CONDITION].decode())
    members = [
        one
        for binding in json.loads(made.made.files[emit.ALLOW_POLICY])["bindings"]
        for one in binding["members"]
    ]

    def decide(case: Case) -> bool | None:
        vocabulary = words.WORDS[words.PLATFORM]
        claims = prove._shown(vocabulary, case) if case.kind == "gcp-token" else None
        if claims is None or not prove._whole(claims):
            return None
        image = f"{emit.principals(choice.of(made.choice))}{claims.get(words.DIGEST)}" in members
        said = {engine(prove.token(claims)) and image for engine in loaded.values()}
        assert len(said) == 1
        return said.pop()

    return decide


def _shown(encode: Callable[[Case], Any], decide: Callable[[Any], bool]) -> Decide:
    def both(case: Case) -> bool | None:
        evidence = encode(case)
        return None if evidence is None else decide(evidence)

    return both


_JUDGES: Mapping[str, Callable[[World], Decide]] = {
    "broker": _broker,
    "trustee": _trustee,
    "intel-ita": _ita,
    "contrast": _contrast,
    "keylime": _keylime,
    "corim": _corim,
    "vault-jwt": _vault,
    "aws-kms": _aws,
    "azure-skr": _azure,
    "gcp-wif": _gcp,
}
