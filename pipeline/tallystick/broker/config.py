"""How one broker is set up: where its things are, and the limits that keep it bounded."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from tallystick.broker.tls import TlsFiles
from tallystick.core.files import read_file
from tallystick.release.metadata import MAX_AGE

_MAX_URL_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client, or all of them together, may take."""

    sessions: int = 8192  # attested ones that a process remembers; the store has them all
    auth_bytes: int = 4 << 10
    attest_bytes: int = 1 << 20  # an event log is tens of kilobytes; GPU evidence is more
    enrol_bytes: int = 64 << 10
    body_seconds: float = 10.0  # for a whole request body
    header_seconds: float = 10.0  # for a whole request head, from the connection on
    idle_seconds: int = 30  # a kept-alive connection without a request
    connections: int = 4096
    client_rate: float = 50.0  # requests a second that one address may make in the long run
    client_burst: int = 500  # and at once: a rack of machines that boots behind one address
    stop_seconds: int = 10  # for open requests when the service ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """How long the things that the broker hands out last."""

    session: timedelta = timedelta(minutes=5)  # Trustee's default
    token: timedelta = timedelta(minutes=5)  # Trustee's default
    enrolment: timedelta = timedelta(minutes=1)
    ak_certificate: timedelta = timedelta(hours=1)
    evidence: timedelta = timedelta(days=90)  # zero records no evidence
    leases: timedelta = timedelta(days=365)  # that are over, so that it is known who had a key
    witness: timedelta = timedelta(seconds=10)  # between two looks of the witnesses at the log
    sweep: timedelta = timedelta(seconds=5)  # between two looks at whether leases are still permitted


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerConfig:
    """Everything a broker is started with. The passphrase is never shown."""

    workdir: Path  # the broker's own state is in its folder "broker"
    channel_dir: Path  # the channel's TUF repository: "metadata" and "targets"
    channel: str  # its name, under which the trust file pins its root
    trust: Path  # the pinned trust file
    endorsements: tuple[Path, ...] = ()  # chains, CRLs, TCB info, RIMs that evidence is verified with
    host: str = "127.0.0.1"
    port: int = 8777
    tls: TlsFiles | None = None  # None: plain HTTP
    metrics: bool = False  # serve /metrics
    witnesses: tuple[str, ...] = ()  # URLs of those who look at the log
    issuer: str = "tallystick-broker"  # "iss" of the attestation results
    revocations_within: timedelta = MAX_AGE  # how long ago the channel must have spoken to release anything
    passphrase: str | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    threads: int = 4  # for cryptography, which lets go of the interpreter

    @property
    def home(self) -> Home:
        """Where the broker keeps its state."""
        return Home(self.workdir / "broker")


@dataclass(frozen=True, slots=True)
class Home:
    """The broker's own folder."""

    folder: Path

    @property
    def vault(self) -> Path:
        """The keys."""
        return self.folder / "vault"

    @property
    def store(self) -> Path | str:
        """The log, its records, used nonces, high-water marks: a SQLite file, or the URL that ``store.url`` names."""
        if self.store_url.exists():
            return read_file(self.store_url, "store.url", max_bytes=_MAX_URL_BYTES).decode("utf-8").strip()
        return self.folder / "store.sqlite"

    @property
    def store_url(self) -> Path:
        """Where the URL of a store in a database server is written, when the store is there."""
        return self.folder / "store.url"

    @property
    def made(self) -> bool:
        """Whether there is a broker in this folder."""
        return self.store_url.exists() or (self.folder / "store.sqlite").exists()

    @property
    def log_key(self) -> Path:
        """What signs checkpoints."""
        return self.folder / "log-key.pem"

    @property
    def token_key(self) -> Path:
        """What signs attestation results."""
        return self.folder / "token-key.pem"

    @property
    def session_key(self) -> Path:
        """What authenticates sessions that wait for evidence."""
        return self.folder / "session-key"

    @property
    def enrolment(self) -> Path:
        """The authorities for attestation keys."""
        return self.folder / "enrolment"

    @property
    def admins(self) -> Path:
        """Who may do key operations over the network."""
        return self.folder / "admins.json"

    @property
    def admin_socket(self) -> Path:
        """Where a running broker takes key operations from its own user."""
        return self.folder / "admin.sock"
