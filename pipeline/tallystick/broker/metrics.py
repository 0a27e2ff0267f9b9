"""What the broker counts, as Prometheus reads it. Paths, states and numbers: no key's name, no claim, no client.

Source: Prometheus text exposition format, by ``prometheus_client``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tallystick.broker import lease_table
from tallystick.core.errors import TallystickError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric

    from tallystick.broker.service import Broker

# seconds; a handshake's verification takes milliseconds, a slow client's body up to its limit
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)


class Metrics:
    """The counters of one broker process."""

    def __init__(self, broker: Broker) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._registry: CollectorRegistry = CollectorRegistry()
        self._requests = Counter(
            "tally_broker_requests", "Requests answered.", ("path", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "tally_broker_request_seconds",
            "Time from a request's head to its answer.",
            ("path",),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_State(broker))

    def answered(self, path: str, status: int, seconds: float) -> None:
        """Count one answer. ``path`` is a route, so that the number of series is bounded."""
        self._requests.labels(path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self) -> bytes:
        """Return everything in the text exposition format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)


class _State:
    """What is read from the broker when somebody asks."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        broker = self._broker
        decisions = CounterMetricFamily(
            "tally_broker_decisions", "Decisions in the log, by this process.", labels=("kind",)
        )
        for kind, count in sorted(broker.ledger.counts().items(), key=lambda pair: pair[0].value):
            decisions.add_metric((kind.value,), count)
        yield decisions
        yield GaugeMetricFamily("tally_broker_log_size", "Leaves in the log.", broker.ledger.head().size)
        yield GaugeMetricFamily(
            "tally_broker_sessions", "Attested sessions that this process remembers.", len(broker.sessions)
        )
        with broker.store.reading() as connection:
            held = sum(lease_table.counts(connection, broker.clock.now()).values())
        yield GaugeMetricFamily("tally_broker_leases", "Leases that hold.", held)
        try:
            state = broker.policies.current(now := broker.clock.now())
        except TallystickError:
            yield GaugeMetricFamily("tally_broker_ready", "1 when keys can be released.", 0)
            return
        left = (state.expires - now).total_seconds()
        yield GaugeMetricFamily("tally_broker_ready", "1 when keys can be released.", 1)
        yield GaugeMetricFamily("tally_broker_policies", "Policies in force.", len(state.policies))
        yield GaugeMetricFamily("tally_broker_channel_version", "Version of the channel.", state.version)
        yield GaugeMetricFamily(
            "tally_broker_channel_expires_seconds", "Time until the channel's metadata expires.", left
        )
