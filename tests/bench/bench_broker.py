"""The broker under load: whole handshakes with SNP evidence, beside a bare endpoint of the same server in the same run.

Client and server share two processors, so what is compared is the server's processor time: what a handshake takes of
it, against three answers of a bare "hello" and the cryptography that no broker can leave out.
``bench_broker.py`` prints every figure; ``bench_broker.py profile`` says where the time goes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "pipeline"), str(ROOT / "tests")]

import support_snp as snp  # noqa: E402
from broker import test_machines as machines  # noqa: E402
from broker.world import INIT_DATA, NOW, WEIGHTS, World, form, new_world, trust  # noqa: E402
from cryptography.hazmat.primitives import hashes, keywrap  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec  # noqa: E402
from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: E402

from tallystick.broker import opening, server  # noqa: E402
from tallystick.evidence import roots  # noqa: E402
from tallystick.handshake import binding, initdata, kbs, snpwire  # noqa: E402
from tallystick.handshake.jwe import TeeKeyPair  # noqa: E402

HELLO = "/hello"
RELEASES = int(os.environ.get("TALLY_BENCH_RELEASES", "1000"))  # 100,000 for the whole promise
AUTH = json.dumps(kbs.Request(tee="snp").document()).encode()
TICK = os.sysconf("SC_CLK_TCK")
Show = Callable[[str], bytes]  # a nonce -> the attestation message


@dataclass
class Load:
    """What one run of clients did, and what it cost the server."""

    count: int
    seconds: float
    processor: float  # seconds of it, of all server processes
    latencies: list[float] = field(repr=False)

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def cost_us(self) -> float:
        return self.processor / self.count * 1e6

    def percentile_ms(self, part: float) -> float:
        return sorted(self.latencies)[int(len(self.latencies) * part)] * 1000


class Client:
    """One keep-alive connection that speaks just enough HTTP."""

    async def open(self, port: int) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def ask(
        self, method: str, path: str, body: bytes = b"", cookie: str = ""
    ) -> tuple[int, bytes, str]:
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        if cookie:
            head += f"Cookie: kbs-session-id={cookie}\r\n"
        self.writer.write(head.encode() + b"\r\n" + body)
        said = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        given, length = "", 0
        for line in said.split("\r\n")[1:]:
            name, _, value = line.partition(": ")
            if name == "content-length":
                length = int(value)
            elif name == "set-cookie":
                given = value.partition("=")[2].partition(";")[0]
        return int(said[9:12]), await self.reader.readexactly(length), given

    async def handshake(self, show: Show, *, status: int = 200) -> None:
        _, body, cookie = await self.ask("POST", kbs.AUTH_PATH, AUTH)
        got, body, _ = await self.ask("POST", kbs.ATTEST_PATH, show(json.loads(body)["nonce"]), cookie)
        assert got == 200, body
        got, body, _ = await self.ask("GET", kbs.RESOURCE_PATH + WEIGHTS, cookie=cookie)
        assert got == status, body

    async def hello(self) -> None:
        got, _, _ = await self.ask("GET", HELLO)
        assert got == 200

    async def unknown(self) -> None:
        """Ask with a cookie that nobody gave out."""
        got, _, _ = await self.ask("GET", kbs.RESOURCE_PATH + WEIGHTS, cookie="A" * 112)
        assert got == 401


def show_with(maker: snp.Maker) -> Show:
    """Return what makes an attestation message. The key pair and the certificates are made once: a client's work."""
    pair = TeeKeyPair.make()
    certificates = dict(zip(("VCEK", "ASK"), maker.endorsements(), strict=True))
    host_data = initdata.digest(INIT_DATA.encode())

    def show(nonce: str) -> bytes:
        digest = binding.report_data(nonce, pair.public, algorithm="sha384")
        report = maker.report(report_data=digest.ljust(64, b"\0"), host_data=host_data, policy=0x20000)
        evidence = snpwire.document(report, certificates)
        message = kbs.Attestation(
            nonce=nonce, tee_pubkey=pair.public, primary_evidence=evidence, init_data=INIT_DATA
        )
        return json.dumps(message.document()).encode()

    return show


@dataclass
class Bench:
    """A broker's folder, the maker that its processor believes, and what clients show."""

    world: World
    show: Show

    @contextmanager
    def serving(
        self, *, workers: int = 1, hello: bool = False, cores: set[int] | None = None
    ) -> Iterator[Served]:
        """Serve in processes of their own; with ``hello`` only a bare endpoint."""
        config = replace(
            self.world.config, limits=replace(self.world.limits, client_rate=1e9, client_burst=10**9)
        )
        reserved = server.listen("127.0.0.1", 0, backlog=0)
        port = reserved.getsockname()[1]
        reading, writing = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reading)
            if cores:
                os.sched_setaffinity(0, cores)
            make = partial(
                opening.open_broker, config, trust=trust(self.world.channel), read_clock=lambda: NOW
            )
            ready = lambda _: os.write(writing, b".")  # noqa: E731
            try:
                if hello:
                    bare(server.listen("127.0.0.1", port, shared=True), ready)
                elif workers == 1:
                    server.serve(make(), server.listen("127.0.0.1", port, shared=True), ready=ready)
                else:
                    server.serve_workers(config, reserved, workers, make=make, ready=ready)
            finally:
                os._exit(0)
        os.close(writing)
        assert os.read(reading, 1) == b".", "the server starts"
        try:
            yield Served(process, port)
        finally:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
            os.close(reading)
            reserved.close()


@dataclass
class Served:
    """A server process, with its children."""

    process: int
    port: int

    def processor_seconds(self) -> float:
        children = Path(f"/proc/{self.process}/task/{self.process}/children").read_text().split()
        fields = [
            Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            for number in (str(self.process), *children)
        ]
        return sum(int(one[11]) + int(one[12]) for one in fields) / TICK

    def memory_kib(self) -> int:
        status = Path(f"/proc/{self.process}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def load(
        self,
        work: Callable[[Client], Any],
        *,
        clients: int = 16,
        seconds: float = 3.0,
        rate: float | None = None,
    ) -> Load:
        """Let ``clients`` do ``work`` again and again; with ``rate``, so many a second in all."""
        return asyncio.run(self._load(work, clients, seconds, rate))

    async def _load(
        self, work: Callable[[Client], Any], clients: int, seconds: float, rate: float | None
    ) -> Load:
        opened = [await Client().open(self.port) for _ in range(clients)]
        latencies: list[float] = []
        until = time.perf_counter() + seconds
        step = clients / rate if rate else 0.0

        async def one(client: Client, number: int) -> None:
            due = time.perf_counter() + step * number / clients
            while (now := time.perf_counter()) < until:
                if rate:
                    await asyncio.sleep(max(0.0, due - now))
                    due += step
                began = time.perf_counter()
                await work(client)
                latencies.append(time.perf_counter() - began)

        began, used = time.perf_counter(), self.processor_seconds()
        await asyncio.gather(*(one(client, number) for number, client in enumerate(opened)))
        taken, processor = time.perf_counter() - began, self.processor_seconds() - used
        for client in opened:
            client.writer.close()
        return Load(len(latencies), taken, processor, latencies)


def bare(listening: Any, ready: Callable[[str], Any]) -> None:
    """Serve "hello" with the broker's server and framework, and nothing of the broker."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def hello(request: Any) -> PlainTextResponse:
        return PlainTextResponse("hello\n")

    app = Starlette(routes=[Route(HELLO, hello)])
    config = uvicorn.Config(app, http="httptools", loop="asyncio", log_config=None, access_log=False)
    config.load()
    asyncio.run(server._Server(config, lambda: ready("")).serve(sockets=[listening]))


def crypto_us() -> float:
    """Return the time of what no handshake can leave out: P-384 verification, ES256, ECDH-ES+A256KW and A256GCM."""
    report, token = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP256R1())
    data = os.urandom(0x2A0)
    signature = report.sign(data, ec.ECDSA(hashes.SHA384()))
    public, peer = report.public_key(), ec.generate_private_key(ec.SECP256R1()).public_key()

    def once() -> None:
        public.verify(signature, data, ec.ECDSA(hashes.SHA384()))
        token.sign(data, ec.ECDSA(hashes.SHA256()))
        shared = ec.generate_private_key(ec.SECP256R1()).exchange(ec.ECDH(), peer)
        keywrap.aes_key_wrap(shared, data[:32])
        AESGCM(shared).encrypt(data[:12], data[:32], b"")
        AESGCM(shared).encrypt(data[:12], data[:32], b"")  # the vault's own

    once()
    began = time.process_time()
    for _ in range(300):
        once()
    return (time.process_time() - began) / 300 * 1e6


@contextmanager
def bench() -> Iterator[Bench]:
    """A broker with an SNP policy in force, in a folder of its own."""
    snp.AT = NOW
    maker = snp.Maker()
    real = roots.certificate
    roots.certificate = lambda name: maker.ark if name.startswith("ARK-") else real(name)  # type: ignore[assignment]
    try:
        with tempfile.TemporaryDirectory(prefix="tally-bench-") as folder:
            world = new_world(Path(folder))
            with world.running() as running:
                machines._attest(running, maker, TeeKeyPair.make())
                machines._permit(running, machines._claims(running))
            yield Bench(world, show_with(maker))
    finally:
        roots.certificate = real  # type: ignore[assignment]


Figure = tuple[str, float, str]  # what, the ratio or value, and what is promised


def measure() -> Iterator[Figure]:
    """Yield every figure."""
    with bench() as made:
        release = lambda client: client.handshake(made.show)  # noqa: E731
        with made.serving(hello=True, cores={0}) as bare_server, made.serving(cores={0}) as served:
            served.load(release, seconds=1)
            rounds = [_round(bare_server, served, release) for _ in range(5)]
            names = ("hello, µs", "floor, µs", "handshake, µs", "handshakes/s", "rate of the floor")
            for what, values in zip(names, zip(*rounds, strict=True), strict=True):
                yield what, statistics.median(values), ">= 0.8" if what == names[-1] else ""
            one = rounds[-1][2]
            yield from _clients(served, release, one, rate=rounds[-1][3])
            yield from _memory(served, release)
        with made.serving(workers=2) as two:
            two.load(release, seconds=1)
            both = two.load(release, clients=32, seconds=4)
            yield "2 workers: processor time of a handshake / with 1", both.cost_us / one, "<= 1.11"
        yield _durability(made, release)
    yield _policies()


def _round(bare_server: Served, served: Served, release: Callable[[Client], Any]) -> tuple[float, ...]:
    hello = bare_server.load(Client.hello, seconds=1)
    ours = served.load(release, seconds=2)
    floor = 3 * hello.cost_us + crypto_us()
    return hello.cost_us, floor, ours.cost_us, ours.rate, floor / ours.cost_us


def _clients(
    served: Served, release: Callable[[Client], Any], one: float, *, rate: float
) -> Iterator[Figure]:
    calm = served.load(release, clients=64, seconds=4, rate=rate / 2)
    yield "p99 at half load, ms", calm.percentile_ms(0.99), "< 100"
    few, many = (served.load(release, clients=clients, seconds=5) for clients in (16, 1000))
    yield "rate of 1,000 clients / of 16, by wall", many.rate / few.rate, ">= 0.9"
    yield "rate of 1,000 clients / of 16, by processor", few.cost_us / many.cost_us, ">= 0.9"
    unknown = served.load(Client.unknown, seconds=2)
    yield "cost of an unknown cookie / of a release", unknown.cost_us / one, "<= 0.1"


def _memory(served: Served, release: Callable[[Client], Any]) -> Iterator[Figure]:
    """The process's memory over ``RELEASES`` more releases: what a release leaves behind."""
    served.load(release, seconds=2)
    before, count = served.memory_kib(), 0
    while count < RELEASES:
        count += served.load(release, seconds=min(10.0, 0.02 * (RELEASES - count) + 1)).count
    yield (
        f"memory over {count} more releases, bytes each",
        (served.memory_kib() - before) * 1024 / count,
        "< 50",
    )


def _durability(made: Bench, release: Callable[[Client], Any]) -> Figure:
    """What waiting for the disk costs: with every commit on it, and with none."""
    from tallystick.broker import database

    real, rates = database._set_up_sqlite, {}

    def careless(connection: Any, record: object) -> None:
        real(connection, record)
        connection.execute("PRAGMA synchronous = OFF")

    for name, setting in (("on", real), ("off", careless)):
        database._set_up_sqlite = setting
        with made.serving(cores={0}) as served:
            served.load(release, seconds=1)
            rates[name] = served.load(release, clients=64, seconds=5).rate
    database._set_up_sqlite = real
    return "rate with durable commits / without", rates["on"] / rates["off"], ">= 0.9"


def _policies() -> Figure:
    """The time of one decision among 10,000 policies, and among 10."""
    from broker.world import release
    from policy import policyworld

    from tallystick.appraisal.records import Challenge
    from tallystick.broker.policies import PolicyState, loaded
    from tallystick.broker.releasing import judge
    from tallystick.broker.sessions import Attested
    from tallystick.policy import document

    normal = form(release())
    policy = loaded(document.write(normal), normal, frozenset())
    claims = policyworld.claims()
    attested = Attested(
        attestation="a",
        claims=claims,
        challenge=Challenge(report_data=claims.report_data, issued_at=NOW),
        public_key=TeeKeyPair.make().public,
    )
    took: dict[int, float] = {}
    for count in (10, 10_000):
        by_key = {WEIGHTS: policy, **{f"a/b/{number}": policy for number in range(count)}}
        state = PolicyState(
            channel="staging", version=1, expires=policyworld.END, revoked=(), policies=(policy,) * count,
            by_key=by_key, unusable=(),
        )  # fmt: skip
        judge(WEIGHTS, attested, state, now=NOW)
        began = time.process_time()
        for _ in range(2000):
            judge(WEIGHTS, attested, state, now=NOW)
        took[count] = time.process_time() - began
    return "decision among 10,000 policies / among 10", took[10_000] / took[10], "<= 1.5"


def profile() -> None:
    import cProfile
    import pstats
    import threading

    with bench() as made:
        profiles: list[cProfile.Profile] = []
        run = threading.Thread.run

        def profiled(self: threading.Thread) -> None:
            one = cProfile.Profile(time.thread_time)  # processor time: waits count for nothing
            profiles.append(one)
            one.runcall(run, self)

        threading.Thread.run = profiled  # type: ignore[method-assign]
        broker = opening.open_broker(
            replace(
                made.world.config, limits=replace(made.world.limits, client_rate=1e9, client_burst=10**9)
            ),
            trust=trust(made.world.channel),
            read_clock=lambda: NOW,
        )
        with server.running(broker, server.listen("127.0.0.1", 0)) as url:
            served = Served(os.getpid(), int(url.rpartition(":")[2]))
            served.load(lambda client: client.handshake(made.show), clients=8, seconds=6)
        stats = pstats.Stats(*profiles)
        stats.sort_stats(sys.argv[2] if len(sys.argv) > 2 else "tottime").print_stats(60)


if __name__ == "__main__":
    if sys.argv[1:2] == ["profile"]:
        profile()
    else:
        for what, value, limit in measure():
            print(f"{what:55} {value:10.2f}  {limit}", flush=True)
