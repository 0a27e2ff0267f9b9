"""A broker whose disk fills up, in a mount namespace of this process's own: ``full_disk.py FOLDER``.

What can not be written is answered 503 and releases nothing; when there is room again the broker goes on by itself.
"""

import subprocess
import sys
from pathlib import Path

from broker.world import CANARY, Machine, new_world

from tallystick.broker import audit
from tallystick.handshake.jwe import TeeKeyPair

folder = Path(sys.argv[1])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder], check=True)
world = new_world(folder / "world")
pair, got, refused = TeeKeyPair.make(), 0, set()
with world.running() as running:
    cookie, _ = running.attest(Machine(), pair)
    for _ in range(2):
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while filler.write(bytes(4096)):
                    pass
            except OSError:
                pass
        before = len(refused), got
        for _ in range(20):
            reply = running.fetch(cookie)
            if reply.status == 200:
                assert pair.decrypt(reply.body) == CANARY
                got += 1
            else:
                refused.add((reply.status, reply.code))
                assert b"ciphertext" not in reply.body
        (folder / "filler").unlink()
        assert pair.decrypt(running.fetch(cookie).body) == CANARY, "it goes on when there is room"
        got += 1
report = audit.verify(world.home)
assert report["kinds"]["release"] >= got, "no key left without its leaf"
assert refused == {(503, "store.unreachable")}, refused
print(f"{got} keys, {report['kinds']['release']} leaves")
