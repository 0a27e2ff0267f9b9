"""The emitted Rego in Open Policy Agent, which nobody here wrote, where its binary is on the path."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
from compile.emitted import choice, trustee_form
from policy.policyworld import NOW, release

from tallystick.compile.domain import cases
from tallystick.compile.targets.trustee import emit, reading
from tallystick.compile.targets.trustee.judge import Judge
from tallystick.compile.targets.trustee.simulate import tcb_claims

OPA = shutil.which("opa")


@pytest.mark.skipif(OPA is None, reason="no opa on the path")
def test_opa_says_what_regorus_says(tmp_path):
    form = trustee_form(release("a"), release("b"))
    texts, values = reading.read(emit.emit(form, choice()).files)
    judge = Judge(texts, values, form, choice(), NOW)
    shim = "\nquery_reference_value(id) := object.get(data.reference, id, null)\n"
    (tmp_path / "policy.rego").write_text(texts[emit.AS_POLICY] + shim)
    (tmp_path / "reference.json").write_text(json.dumps({"reference": values}))
    nanoseconds = int(judge.now.timestamp() * 1_000_000_000)
    query = f"data.policy.trust_claims with data.policy.now_ns as {nanoseconds}"
    for number, case in enumerate(cases(form, budget=10)):
        if number == 12:
            break
        evidence = tcb_claims(case)
        (tmp_path / "input.json").write_text(json.dumps(evidence))
        command = [
            OPA,
            "eval",
            "-f",
            "raw",
            "-d",
            "policy.rego",
            "-d",
            "reference.json",
            "-i",
            "input.json",
            query,
        ]
        got = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert json.loads(got.stdout) == judge.engine(emit.AS_POLICY).evaluate("trust_claims", evidence, {})
