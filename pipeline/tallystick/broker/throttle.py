"""How much one client may ask for: a token bucket for each address, in bounded memory.

Every attempt to attest or enrol is logged, so a stranger who could ask without limit could grow the log without
limit, and keep others from being answered.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass

_IPV6_PREFIX = 64  # what one subscriber has; within it addresses are free


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Throttle:
    """At most ``rate`` requests a second from one client in the long run, ``burst`` at once. Not for threads."""

    __slots__ = ("_buckets", "_burst", "_most", "_rate")

    def __init__(self, *, rate: float, burst: int, most_clients: int = 65_536) -> None:
        """Begin with every client's bucket full.

        Args:
            most_clients: that are remembered; the one that asked longest ago gives way.
        """
        self._rate = rate
        self._burst = burst
        self._most = most_clients
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, client: str, now: float) -> int:
        """Take one request of ``client``; return 0, or how many seconds it should wait instead.

        Args:
            now: seconds of a clock that does not run back.
        """
        key = _key(client)
        bucket = self._buckets.pop(key, None) or _Bucket(float(self._burst), now)
        bucket.tokens = min(float(self._burst), bucket.tokens + (now - bucket.at) * self._rate)
        bucket.at = now
        self._buckets[key] = bucket
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return max(1, math.ceil((1 - bucket.tokens) / self._rate))
        bucket.tokens -= 1
        return 0


def _key(client: str) -> str:
    """Return what counts as one client."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
