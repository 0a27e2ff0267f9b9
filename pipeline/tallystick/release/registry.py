"""A container registry: blobs and manifests of one repository over HTTP.

Source: OCI distribution specification 1.1; the token exchange that registries answer 401 with (distribution
project, "Token Authentication Specification"). Credentials are those that ``docker login`` stored.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from tallystick.core.digests import Digest
from tallystick.core.errors import Misuse, NotGenuine, Unreachable
from tallystick.core.files import write_file
from tallystick.release.artifact import INDEX, MANIFEST, MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    import requests

_HOST = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?"
_REPOSITORY = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_REFERENCE = re.compile(
    rf"oci://(?P<host>{_HOST})/(?P<repository>{_REPOSITORY})(?::(?P<tag>{_TAG}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?"
)
_HELPER = re.compile(r"[A-Za-z0-9._-]+")
_TIMEOUT_SECONDS = (10, 60)  # to connect, and between two reads
_BLOCK_BYTES = 64 << 10  # what is lost at most when an answer breaks off
_MAX_TOKEN_BYTES = 1 << 20
_TRIES = 4
_OK, _CREATED, _ACCEPTED, _NO_CONTENT, _PARTIAL = 200, 201, 202, 204, 206
_UNAUTHORISED, _NOT_FOUND, _RANGE = 401, 404, 416
_BYTES = "application/octet-stream"
_MOST_KEPT_BYTES = 1 << 20
CHUNK_BYTES = 32 << 20  # of an upload: what is lost at most when it breaks off, and held in memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where a release lies in a registry: ``oci://host/repository:tag`` or ``…@sha256:<hex>``."""

    host: str
    repository: str
    tag: str | None
    digest: Digest | None

    @property
    def name(self) -> str:
        """The digest, else the tag, as the registry's addresses have it."""
        return str(self.digest) if self.digest else self.tag or "latest"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"oci://{self.host}/{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")


def reference(text: str) -> Reference:
    """Return the reference that ``text`` is.

    Raises:
        Misuse: it is none, or it has neither a tag nor a digest (``oci.reference``).
    """
    match = _REFERENCE.fullmatch(text)
    if match is None or not (match["tag"] or match["digest"]):
        want = "oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:HEX"
        raise Misuse(f"{text!r} is no place in a registry: want {want}", code="oci.reference")
    digest = Digest.parse(match["digest"]) if match["digest"] else None
    return Reference(host=match["host"], repository=match["repository"], tag=match["tag"], digest=digest)


class Kept:
    """Where unfinished uploads stand, in a file beside the release; without a file, while the process lives."""

    def __init__(self, path: Path | None) -> None:
        """Read ``path``; what is no such file counts as nothing."""
        self._path = path
        self._places: dict[str, str] = {}
        try:
            if path is not None and path.stat().st_size <= _MOST_KEPT_BYTES:
                found = json.loads(path.read_bytes())
                self._places = {str(name): str(place) for name, place in found.items()}
        except (OSError, ValueError, AttributeError):
            self._places = {}

    def place(self, digest: Digest) -> str | None:
        """Return where the upload of ``digest`` stands, or None."""
        return self._places.get(str(digest))

    def keep(self, digest: Digest, place: str) -> None:
        """Remember where the upload of ``digest`` stands."""
        self._places[str(digest)] = place
        self._write()

    def drop(self, digest: Digest) -> None:
        """Forget the upload of ``digest``; the file goes with the last one."""
        self._places.pop(str(digest), None)
        self._write()

    def _write(self) -> None:
        if self._path is None:
            return
        if self._places:
            write_file(self._path, json.dumps(self._places).encode(), mode=0o600)
        else:
            self._path.unlink(missing_ok=True)


class Registry:
    """One repository of one registry. Not for several threads."""

    def __init__(self, place: Reference, *, plain_http: bool = False) -> None:
        import requests
        from requests.adapters import HTTPAdapter
        from urllib3.util import Retry

        self._place = place
        self._base = f"{'http' if plain_http else 'https'}://{place.host}/v2/{place.repository}/"
        self._authorization: str | None = None
        self._session = requests.Session()
        self._session.auth = _unchanged  # keeps the library from sending what ~/.netrc has
        again = Retry(
            total=_TRIES - 1, backoff_factor=0.3, status_forcelist=(429, 502, 503, 504), raise_on_status=False
        )
        for scheme in ("https://", "http://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=again))

    def manifest(self, name: str) -> bytes | None:
        """Return the manifest or image index called ``name`` (a tag or digest), or None when there is none.

        Raises:
            NotGenuine: ``name`` is a digest, and not of what came (``oci.digest``).
            Unreachable: the registry can not be reached or refuses.
        """
        accept = {"Accept": f"{MANIFEST}, {INDEX}"}
        answer = self._ask("GET", f"manifests/{name}", headers=accept, stream=True)
        if answer.status_code == _NOT_FOUND:
            return None
        data = self._bounded(self._expect(answer, _OK), MAX_MANIFEST_BYTES)
        if name.startswith("sha256:") and str(Digest.of(data)) != name:
            raise NotGenuine(f"{self._place.host}: want {name}, got {Digest.of(data)}", code="oci.digest")
        return data

    def put_manifest(self, data: bytes, name: str, media_type: str = MANIFEST) -> None:
        """Store ``data`` under the tag or digest ``name``."""
        headers = {"Content-Type": media_type}
        self._expect(self._ask("PUT", f"manifests/{name}", headers=headers, data=data), _CREATED, _OK)

    def delete_manifest(self, digest: Digest) -> None:
        """Delete the manifest ``digest``.

        Raises:
            Unreachable: the registry does not let us (many do not).
        """
        self._expect(self._ask("DELETE", f"manifests/{digest}"), _ACCEPTED, _OK, _NOT_FOUND)

    def referrers(self, digest: Digest) -> bytes | None:
        """Return the image index of what refers to ``digest``; None when the registry has no such list."""
        answer = self._ask("GET", f"referrers/{digest}", headers={"Accept": INDEX}, stream=True)
        if answer.status_code != _OK:
            answer.close()
            return None
        return self._bounded(answer, MAX_MANIFEST_BYTES)

    def has_blob(self, digest: Digest) -> bool:
        """Say whether the repository has the blob."""
        answer = self._ask("HEAD", f"blobs/{digest}", allow_redirects=True)
        if answer.status_code == _NOT_FOUND:
            return False
        self._expect(answer, _OK)
        return True

    def put_blob(self, stream: BinaryIO, digest: Digest, size_bytes: int, kept: Kept | None = None) -> None:
        """Upload ``size_bytes`` bytes of ``stream``; the registry checks the digest.

        A blob of more than ``CHUNK_BYTES`` goes in chunks of that size, each from where the registry says that it is.

        Args:
            kept: remembers where uploads stand, so that another process goes on there.

        Raises:
            Unreachable: it did not all go, or the registry refuses it.
        """
        if size_bytes > CHUNK_BYTES:
            place = self._put_chunks(stream, digest, size_bytes, kept or Kept(None))
            body: BinaryIO | bytes = b""
        else:
            place = self._begin()
            body = stream if size_bytes else b""  # an empty stream would be sent in chunks
        place += ("&" if urlsplit(place).query else "?") + f"digest={digest}"
        headers = {"Content-Type": _BYTES, "Content-Length": "0" if body == b"" else str(size_bytes)}
        self._expect(self._ask("PUT", place, headers=headers, data=body), _CREATED)

    def _begin(self) -> str:
        """Begin an upload and return where its bytes go."""
        return self._location(self._expect(self._ask("POST", "blobs/uploads/"), _ACCEPTED))

    def _location(self, answer: requests.Response, before: str = "") -> str:
        return urljoin(self._base, answer.headers.get("Location", before))

    def _put_chunks(self, stream: BinaryIO, digest: Digest, size_bytes: int, kept: Kept) -> str:
        """Send the blob in chunks (distribution specification 1.1, "Pushing a blob in chunks"); return its place.

        When the place is no more, or an answer is lost and the registry has dropped the upload, it begins again.
        """
        place, at = self._stands(kept.place(digest))
        tries = 0
        while at < size_bytes:
            place = place or self._begin()
            kept.keep(digest, place)
            stream.seek(at)
            body = stream.read(min(CHUNK_BYTES, size_bytes - at))
            headers = {"Content-Type": _BYTES, "Content-Range": f"{at}-{at + len(body) - 1}"}
            try:
                answer = self._ask("PATCH", place, headers=headers, data=body)
                if answer.status_code not in (_ACCEPTED, _NOT_FOUND, _RANGE):
                    self._expect(answer, _ACCEPTED)
            except Unreachable:
                if (tries := tries + 1) == _TRIES:
                    raise
                place, at = self._stands(place)
                continue
            done = _end_of(answer) if answer.status_code == _ACCEPTED else 0
            if at < done <= at + len(body):
                place, at, tries = self._location(answer, place), done, 0
            elif (tries := tries + 1) == _TRIES:
                raise self._refused(f"the upload of {digest} does not go on: {answer.status_code}")
            else:
                place, at = self._stands(place)
        kept.drop(digest)
        return place or self._begin()

    def _stands(self, place: str | None) -> tuple[str | None, int]:
        """Return where an upload goes on and how many bytes the registry has; None and 0 when it has forgotten."""
        if place is None:
            return None, 0
        answer = self._ask("GET", place)
        answer.close()
        if answer.status_code != _NO_CONTENT:
            return None, 0
        return self._location(answer, place), _end_of(answer)

    def get_blob(self, digest: Digest, size_bytes: int, place: Path) -> None:
        """Write the blob to ``place``, beginning after the bytes that are there already.

        Raises:
            NotGenuine: what came has another digest or length (``oci.blob``); nothing is left at ``place``.
            Unreachable: it did not all come; what did stays for the next time.
        """
        import requests

        for attempt in range(_TRIES):
            try:
                self._more(digest, size_bytes, place)
                break
            except requests.RequestException as error:
                if attempt + 1 == _TRIES:
                    raise self._unreachable(error) from None
        with place.open("rb") as stream:
            got = Digest.of_stream(stream)
        if got != digest:
            place.unlink()
            raise NotGenuine(f"{self._place.host}: blob: want {digest}, got {got}", code="oci.blob")

    def _more(self, digest: Digest, size_bytes: int, place: Path) -> None:
        have = place.stat().st_size if place.exists() else 0
        if have >= size_bytes and place.exists():
            return
        headers = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {}
        answer = self._ask("GET", f"blobs/{digest}", headers=headers, stream=True)
        with self._expect(answer, _OK, _PARTIAL):
            if answer.status_code == _OK:
                have = 0  # the registry sends it from the beginning
            with place.open("r+b" if have else "wb") as stream:
                stream.seek(have)
                for block in answer.iter_content(_BLOCK_BYTES):
                    have += len(block)
                    if have > size_bytes:
                        break
                    stream.write(block)
                stream.truncate()
        if have > size_bytes:
            place.unlink()
            message = f"{self._place.host}: blob {digest}: want {size_bytes} bytes, got more"
            raise NotGenuine(message, code="oci.blob")

    def _ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send one request; once more with a token when the registry asks for one."""
        url = urljoin(self._base, path)
        answer = self._send(method, url, options)
        if answer.status_code == _UNAUTHORISED and self._ours(url):
            challenge = answer.headers.get("WWW-Authenticate", "")
            answer.close()
            self._authorization = self._authorize(challenge)
            body = options.get("data")
            if body is not None and not isinstance(body, bytes):
                body.seek(0)
            answer = self._send(method, url, options)
        return answer

    def _send(self, method: str, url: str, options: dict[str, Any]) -> requests.Response:
        import requests

        options = {"timeout": _TIMEOUT_SECONDS, **options}
        headers = dict(options.pop("headers", {}))
        if self._authorization and self._ours(url):
            headers["Authorization"] = self._authorization
        try:
            return self._session.request(method, url, headers=headers, **options)
        except requests.RequestException as error:
            raise self._unreachable(error) from None

    def _ours(self, url: str) -> bool:
        """Say whether ``url`` is of the registry itself: nobody else gets its credentials."""
        return urlsplit(url)[:2] == urlsplit(self._base)[:2]

    def _authorize(self, challenge: str) -> str:
        """Return the Authorization header that answers ``challenge``."""
        scheme, _, rest = challenge.partition(" ")
        stored = _credentials(self._place.host)
        if scheme.lower() == "basic" and stored:
            return _basic(stored)
        if scheme.lower() != "bearer":
            raise self._refused("it wants credentials, and `docker login` stored none for it")
        fields = dict(re.findall(r'([a-z_]+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if urlsplit(realm).scheme not in {"https", urlsplit(self._base).scheme}:
            raise self._refused(f"it names no usable token service: {realm!r}")
        query = {name: fields[name] for name in ("service", "scope") if name in fields}
        headers = {"Authorization": _basic(stored)} if stored else {}
        answer = self._send("GET", realm, {"params": query, "headers": headers, "stream": True})
        if answer.status_code != _OK:
            raise self._refused(f"its token service answers {answer.status_code}")
        try:
            document = json.loads(self._bounded(answer, _MAX_TOKEN_BYTES))
            return f"Bearer {document.get('token') or document['access_token']}"
        except (ValueError, KeyError, AttributeError, TypeError):
            raise self._refused("its token service sent no token") from None

    def _bounded(self, answer: requests.Response, most: int) -> bytes:
        import requests

        data = b""
        try:
            with answer:
                for block in answer.iter_content(_BLOCK_BYTES):
                    data += block
                    if len(data) > most:
                        raise self._refused(f"a document of more than {most} bytes")
        except requests.RequestException as error:
            raise self._unreachable(error) from None
        return data

    def _expect(self, answer: requests.Response, *statuses: int) -> requests.Response:
        if answer.status_code in statuses:
            return answer
        answer.close()
        path = urlsplit(answer.url).path
        said = f"{answer.request.method} {path} answers {answer.status_code}"
        raise self._refused(said)

    def _refused(self, why: str) -> Unreachable:
        return Unreachable(f"registry {self._place.host}: {why}", code="oci.registry")

    def _unreachable(self, error: Exception) -> Unreachable:
        kind = type(error).__name__
        return Unreachable(f"registry {self._place.host} can not be reached ({kind})", code="oci.unreachable")


def _end_of(answer: requests.Response) -> int:
    """Return how many bytes of an upload the registry has. It says ``0-0`` of none; we never leave it one byte."""
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", answer.headers.get("Range", ""))
    last = int(match[1]) if match else 0
    return last + 1 if last else 0


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _basic(credentials: tuple[str, str]) -> str:
    return "Basic " + base64.b64encode(":".join(credentials).encode()).decode()


def _credentials(host: str) -> tuple[str, str] | None:
    """Return the user and the secret that ``docker login`` stored for ``host``, or None."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        config = json.loads((folder / "config.json").read_bytes())
        helper = config.get("credHelpers", {}).get(host) or config.get("credsStore")
        entry = config.get("auths", {}).get(host, {})
        if isinstance(entry.get("auth"), str) and entry["auth"]:
            user, _, secret = base64.b64decode(entry["auth"]).decode().partition(":")
            return user, secret
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError):
        raise Misuse(f"{folder / 'config.json'} is no Docker configuration", code="oci.credentials") from None
    if not isinstance(helper, str) or _HELPER.fullmatch(helper) is None:
        return None
    try:
        command = [f"docker-credential-{helper}", "get"]
        said = subprocess.run(command, input=host.encode(), capture_output=True, check=True, timeout=60)
        document = json.loads(said.stdout)
        return str(document["Username"]), str(document["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return None
