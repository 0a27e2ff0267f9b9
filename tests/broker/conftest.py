"""What the broker's tests share."""

from datetime import UTC, datetime

import pytest
from broker.world import new_world

from tallystick.appraisal.records import Challenge
from tallystick.broker.sessions import Attested
from tallystick.evidence.claims import Claims
from tallystick.handshake.jwe import TeeKeyPair

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(scope="session")
def tee_key():
    return TeeKeyPair.make()


@pytest.fixture
def pair(tee_key):
    return tee_key


@pytest.fixture
def world(tmp_path):
    return new_world(tmp_path)


@pytest.fixture
def running(world):
    with world.running() as found:
        yield found


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """One broker for all tests of a file that only ask; they leave its channel and its keys as they are."""
    with new_world(tmp_path_factory.mktemp("steady")).running() as found:
        yield found


@pytest.fixture
def attested(tee_key):
    claims = Claims(
        kind="tpm-quote",
        values={"pcr00": "00" * 32},
        roots=("software-tpm",),
        report_data=b"r" * 32,
        valid_from=NOW,
        valid_until=NOW.replace(hour=23),
    )
    return Attested(
        attestation="d",
        claims=claims,
        challenge=Challenge(report_data=b"r" * 32, issued_at=NOW),
        public_key=tee_key.public,
    )
