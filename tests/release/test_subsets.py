"""Every subset of up to seven builders and seven approvers: fewer than the threshold release nothing, whoever they are.

The random plans of test_quorum and test_channel_metadata add forged signatures and dissent to this.
"""

from __future__ import annotations

from itertools import chain, combinations

import pytest
from release.channels import made, policy
from release.made import CI, functionary, link_files, owned_layout, plain_release, signatory

from tallystick.core.errors import NotGenuine, Refused
from tallystick.release import metadata, quorum

MOST = 7


CODES = ("release.channel.signature", "release.channel.author", "release.channel.approvals")


def refusal(proposal, state):
    """The code with which a client refuses the proposal; "" when it takes it."""
    try:
        metadata.check_signatures("policies", proposal, state.targets.signed)
        metadata.check_role("policies", proposal, state.targets.signed, state.people)
    except (NotGenuine, Refused) as error:
        return error.code
    return ""


def subsets(names):
    return chain.from_iterable(combinations(names, size) for size in range(len(names) + 1))


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory):
    """A release, seven builders, and the link with which each vouches for it."""
    release = plain_release(tmp_path_factory.mktemp("r") / "release")
    whos = [signatory(f"b{number}") for number in range(MOST)]
    return release, whos, {who.name: link_files(release, [who]) for who in whos}


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_no_subset_of_builders_below_the_threshold_is_a_quorum(rebuilt, count):
    release, whos, vouched = rebuilt
    names = [who.name for who in whos[:count]]
    for threshold in range(1, count + 1):
        rules = owned_layout([functionary(who) for who in whos[:count]], threshold=threshold)
        for dishonest in subsets(names):
            files = {file: data for name in dishonest for file, data in vouched[name].items()}
            agreed = quorum.judge(rules, files, release, builder_id=CI)
            assert agreed.met == (len(dishonest) >= threshold), (count, threshold, dishonest)
            if len(dishonest) < threshold:
                (finding,) = quorum.shortfall(agreed)
                assert finding.code == "release.quorum.missing"


@pytest.mark.parametrize("count", range(3, MOST + 1))
def test_no_subset_of_approvers_below_the_threshold_changes_anything(tmp_path, count):
    names = [f"p{number}" for number in range(count)]
    for threshold in range(2, count):
        channel = made(tmp_path / f"{threshold}", names, threshold=threshold)
        state = channel.state()
        proposal = channel.proposal(names[0], [policy("evil")])
        signatures = {}
        for name in names:
            proposal.signatures.clear()
            signatures[name] = proposal.sign(channel.people[name].signer)
        for dishonest in subsets(names):
            proposal.signatures.clear()
            proposal.signatures.update({signatures[n].keyid: signatures[n] for n in dishonest})
            said = refusal(proposal, state)
            assert said in ("", *CODES)
            live = said == ""
            besides = set(dishonest) - {names[0]}
            assert live == (names[0] in dishonest and len(besides) >= threshold), (threshold, dishonest)
            assert not (live and len(dishonest) <= threshold - 1)
