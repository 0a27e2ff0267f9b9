"""The emitted Rego in Open Policy Agent, which nobody here wrote: the same answers as in regorus, rule by rule.

The Go program in tests/foreign/opa is built when the test runs.
"""

from __future__ import annotations

import json
import subprocess
from datetime import timedelta
from itertools import islice

import pytest
from compile.emitted import choice, trustee_form
from policy.policyworld import NOW, WEIGHTS, release
from support_go import built

from tallystick.compile.domain import Case, cases, released
from tallystick.compile.targets.trustee import emit, reading
from tallystick.compile.targets.trustee.engines import RegoError
from tallystick.compile.targets.trustee.judge import Judge
from tallystick.compile.targets.trustee.simulate import allows, resource, tcb_claims
from tallystick.compile.targets.trustee.varied import other_requests, other_tokens

pytestmark = [pytest.mark.net, pytest.mark.slow]


@pytest.fixture(scope="module")
def opa(tmp_path_factory):
    """Build the program; give a function that returns, for each input, what each rule is."""
    program = built("opa", tmp_path_factory.mktemp("opa"))

    def ask(policy, rules, inputs, values=None, data=None):
        asked = {
            "policy": policy,
            "values": values or {},
            "data": data or {},
            "now": int(NOW.timestamp() * 1_000_000_000),
            "rules": rules,
            "inputs": inputs,
        }
        done = subprocess.run([program], input=json.dumps(asked), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return ask


@pytest.fixture(scope="module")
def judge():
    form = trustee_form(release("a"), release("b"))
    texts, values = reading.read(emit.emit(form, choice()).files)
    return Judge(texts, values, form, choice(), NOW)


def ours(judge, name, rule, document, data):
    try:
        return judge.engine(name).evaluate(rule, document, data)
    except RegoError:
        return "error"


def same(found, expected):
    """OPA names its errors otherwise; that there is one counts."""
    return isinstance(found, dict) and set(found) == {"error"} if expected == "error" else found == expected


def test_opa_appraises_evidence_as_regorus_does(opa, judge):
    chosen = [case for case in cases(judge.form) if case.kind == "tpm-quote"]
    inputs = [tcb_claims(case) for case in chosen]
    rules = ["trust_claims", "extensions"]
    said = opa(judge.texts[emit.AS_POLICY], rules, inputs, judge.values)
    for case, document, answers in zip(chosen, inputs, said, strict=True):
        for rule, answer in zip(rules, answers, strict=True):
            assert same(answer, ours(judge, emit.AS_POLICY, rule, document, {})), f"{rule}: {case.what}"
    named = [answers[1][0]["value"] for answers in said if answers[1][0]["value"]]
    assert len(named) >= 2


def test_opa_gives_resources_as_regorus_does(opa, judge):
    (case,) = islice(released(judge.told), 1)
    claims, data = judge.token(case), resource(WEIGHTS)
    late = {**claims, "iat": int((NOW - timedelta(days=1)).timestamp())}
    tokens = [claims, late, *(token for _, token in other_tokens(claims, NOW, judge.token_seconds))]
    requests = [data, *(request for _, request in other_requests(data))]
    given = 0
    for request, inputs in ((data, tokens), *((other, [claims]) for other in requests)):
        said = opa(judge.texts[emit.RESOURCE_POLICY], ["allow"], inputs, data=request)
        for token, (answer,) in zip(inputs, said, strict=True):
            # `some permit in null` is an error there and no permit here; a KBS gives nothing for either
            assert (answer is True) == allows(judge.engine(emit.RESOURCE_POLICY), token, request), token
            given += answer is True
    assert given == 2  # the token as it is, asked for twice


def test_a_reference_value_that_opa_sees_is_the_one_that_decides(opa, judge):
    (case,) = islice(released(judge.told), 1)
    documents = [tcb_claims(case), tcb_claims(Case(case.kind, "nothing", {}))]
    for values, named in ((judge.values, 1), ({}, 0), (dict.fromkeys(judge.values), 0)):
        if values is judge.values:
            said = opa(judge.texts[emit.AS_POLICY], ["matched"], documents, values)
            assert [len(answer) for (answer,) in said] == [named, 0]
        else:
            (one, _) = opa(judge.texts[emit.AS_POLICY], ["matched"], documents, values)
            assert not one[0] or set(one[0]) == {"error"}
