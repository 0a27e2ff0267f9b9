"""A broker as a process of its own, for tests that kill it: ``serve_world.py FOLDER``. Says its URL on stdout."""

import logging
import os
import sys
from pathlib import Path

from broker.world import LABEL, NOW, endorser, new_world

from tallystick.broker import hardening, opening, server
from tallystick.broker.config import BrokerConfig
from tallystick.core.digests import Digest
from tallystick.signing.records import Trust

hardening.keep_memory_private()
if os.environ.get("TALLY_TEST_DEBUG"):  # everything that any library would ever log
    logging.basicConfig(level=logging.DEBUG)
folder = Path(sys.argv[1])
root = folder / "root.json"
if not root.exists():
    root.write_bytes(new_world(folder).channel.root)
trust = Trust(
    label="embedded-dev",
    sigstore_root=b"{}",
    builders=(),
    promoters=(),
    layout=b"",
    layout_owners=(),
    channels=(("staging", root.read_bytes()),),
    endorsers=(endorser(Digest.of(LABEL.encode()), ()),),
)
config = BrokerConfig(workdir=folder, channel_dir=folder / "staging", channel="staging", trust=folder, port=0)
broker = opening.open_broker(config, trust=trust, read_clock=lambda: NOW)
server.serve(broker, server.listen("127.0.0.1", 0), ready=lambda url: print(url, flush=True))
