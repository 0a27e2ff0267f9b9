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
_OK, _CREATED, _ACCEPTED, _PARTIAL, _UNAUTHORISED, _NOT_FOUND = 200, 201, 202, 206, 401, 404


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

    def put_blob(self, stream: BinaryIO, digest: Digest, size_bytes: int) -> None:
        """Upload ``size_bytes`` bytes of ``stream``; the registry checks the digest."""
        started = self._expect(self._ask("POST", "blobs/uploads/"), _ACCEPTED)
        place = urljoin(self._base, started.headers.get("Location", ""))
        place += ("&" if urlsplit(place).query else "?") + f"digest={digest}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size_bytes)}
        body = stream if size_bytes else b""  # an empty stream would be sent in chunks
        self._expect(self._ask("PUT", place, headers=headers, data=body), _CREATED)

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
