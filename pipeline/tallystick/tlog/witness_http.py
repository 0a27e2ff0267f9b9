"""A witness over HTTP: asking one for its cosignature, and being one.

Source: C2SP tlog-witness, "HTTP interface".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from urllib import error, request

from tallystick.core.errors import Malformed, NotGenuine, Refused, Unreachable
from tallystick.core.findings import Finding
from tallystick.tlog import checkpoint as cp
from tallystick.tlog.serving import serving as http_serving
from tallystick.tlog.witness import MAX_REQUEST_BYTES, SIZE_TYPE, Reply, Witness, write_request

_WAIT_SECONDS = 10
_MAX_REPLY_BYTES = 1 << 16

Consistency = Callable[[int, int], Sequence[bytes]]  # older size, newer size -> proof


def cosignatures(url: str, note: str, consistency: Consistency) -> tuple[cp.NoteSignature, ...]:
    """Return the lines with which the witness at ``url`` signs the checkpoint ``note``. Nothing is verified here.

    Raises:
        Unreachable: nobody answers (``witness.unreachable``).
        NotGenuine: it has seen more of this log than ``note`` covers (``log.behind-witness``), or what it has seen is
            not the beginning of it (``log.forked``).
        Refused: the witness does not sign for another reason (``witness.refused``).
    """
    checkpoint = cp.parse(cp.parse_note(note).text)
    size, old = checkpoint.size, 0
    for _ in range(2):  # the first answer may say how much the witness has seen
        proof = consistency(old, size) if 0 < old < size else ()
        reply = _post(f"{url.rstrip('/')}/add-checkpoint", write_request(old, proof, note))
        if reply.status == 200:
            return _lines(reply.body, note)
        if reply.status != 409 or not reply.content_type.startswith(SIZE_TYPE):
            break
        old = int(reply.body) if reply.body.strip().isdigit() else 0
        if old > size:
            raise _refuse(
                "log.behind-witness", url, f"{checkpoint.origin} with {old} leaves or more", f"{size}"
            )
    if old and reply.status in (409, 422):
        want = f"{checkpoint.origin} beginning with the {old} leaves that were seen"
        raise _refuse("log.forked", url, want, f"another log of {size} leaves")
    message = f"the witness at {url} does not sign: {reply.status} {reply.body.strip()[:200]}"
    raise Refused(message, code="witness.refused")


@contextmanager
def serving(witness: Witness, host: str, port: int, clock: Callable[[], datetime]) -> Iterator[str]:
    """Be a witness at ``host`` and ``port`` (0: a free one) for as long as the block lasts, and give the URL.

    Raises:
        Unreachable: the port is in use, or the address is not ours.
    """

    class Face(BaseHTTPRequestHandler):
        timeout = _WAIT_SECONDS

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.path != "/add-checkpoint":
                return self._send(Reply(status=404, body="add-checkpoint alone\n"))
            if not length.isascii() or not length.isdigit() or int(length) > MAX_REQUEST_BYTES:
                return self._send(Reply(status=413, body="too large\n"))
            return self._send(witness.add_checkpoint(self.rfile.read(int(length)), clock()))

        def _send(self, reply: Reply) -> None:
            data = reply.body.encode()
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with http_serving(Face, host, port) as url:
        yield url


def _refuse(code: str, url: str, want: str, got: str) -> NotGenuine:
    finding = Finding(code, f"what the witness at {url} has seen", want, got)
    return NotGenuine(f"transparency log: {finding.message}", findings=[finding])


def _post(url: str, body: bytes) -> Reply:
    if not url.startswith(("http://", "https://")):
        raise Malformed("witness", at="URL", want="http:// or https://", got=url)
    try:
        with request.urlopen(request.Request(url, data=body), timeout=_WAIT_SECONDS) as answer:  # noqa: S310
            return _reply(answer.status, answer)
    except error.HTTPError as refused:
        return _reply(refused.code, refused)
    except (OSError, ValueError) as failed:
        raise Unreachable(f"no witness answers at {url}: {failed}", code="witness.unreachable") from None


def _reply(status: int, answer: error.HTTPError) -> Reply:
    text = answer.read(_MAX_REPLY_BYTES).decode("utf-8", "replace")
    return Reply(status=status, body=text, content_type=answer.headers.get("Content-Type", ""))


def _lines(body: str, note: str) -> tuple[cp.NoteSignature, ...]:
    text = cp.parse_note(note).text
    return cp.parse_note(f"{text}\n{body}").signatures
