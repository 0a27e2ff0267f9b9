"""The admin API of a Trustee's KBS, over HTTPS with its bearer token.

Source: Trustee 0.21, kbs/docs/kbs.yaml; kbs/src/api_server.rs. What can be read back are Reference Values alone:
the text of a policy can not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from tallystick.core.errors import Misuse, Refused, Unreachable

if TYPE_CHECKING:
    import requests

    from tallystick.compile.targets.trustee.deploy import Step

_SECONDS = (10, 60)
_MAX_ANSWER_BYTES = 16 << 20


class Admin:
    """One KBS. The token is sent to it alone."""

    def __init__(self, url: str, token: str, *, ca: Path | None = None) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            Misuse: no address of a KBS, plain HTTP to another machine, or an empty token (``trustee.admin``).
        """
        import requests

        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
        if not parts.hostname or "@" in parts.netloc or parts.query or not (parts.scheme == "https" or local):
            raise Misuse(f"want https://HOST:PORT of a KBS, got {url[:120]}", code="trustee.admin")
        if not token:
            raise Misuse(
                "the administrator's token is empty: Trustee would be asked without one", code="trustee.admin"
            )
        self._base = url.rstrip("/") + "/kbs/v0/"
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(ca) if ca is not None else True
        self._session.headers["Authorization"] = f"Bearer {token}"

    def send(self, step: Step) -> None:
        """Send one step.

        Raises:
            Refused: the KBS does not take it (``trustee.refused``). Unreachable: it does not answer.
        """
        answer = self._ask("POST", step.kind.value, step.body)
        if answer.status_code != 200:
            said = self._read(answer)[:200].decode("utf-8", "replace")
            message = f"{step.what}: the KBS answers {answer.status_code}: {said}"
            raise Refused(message, code="trustee.refused")
        answer.close()

    def reference_value(self, name: str) -> Any:
        """Return the Reference Value called ``name``, or None when it was never set.

        Raises:
            Refused, Unreachable: as :meth:`send`.
        """
        answer = self._ask("GET", f"reference-value/{quote(name)}", None)
        data = self._read(answer)
        if answer.status_code != 200:
            raise Refused(f"{name}: the KBS answers {answer.status_code}", code="trustee.refused")
        try:
            return json.loads(data)
        except ValueError:
            raise Unreachable(f"{name}: the KBS answers no JSON", code="trustee.unreachable") from None

    def _ask(self, method: str, path: str, body: bytes | None) -> requests.Response:
        import requests

        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            return self._session.request(
                method,
                self._base + path,
                data=body,
                headers=headers,
                timeout=_SECONDS,
                stream=True,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            message = f"the KBS can not be reached ({type(error).__name__})"
            raise Unreachable(message, code="trustee.unreachable") from None

    def _read(self, answer: requests.Response) -> bytes:
        import requests

        try:
            with answer:
                data: bytes = answer.raw.read(_MAX_ANSWER_BYTES + 1, decode_content=True)
        except (requests.RequestException, OSError) as error:
            message = f"the KBS broke off ({type(error).__name__})"
            raise Unreachable(message, code="trustee.unreachable") from None
        if len(data) > _MAX_ANSWER_BYTES:
            raise Unreachable("the KBS answers without an end", code="trustee.unreachable")
        return data
