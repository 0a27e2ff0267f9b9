"""Fetches endorsements: collateral for a quote from a PCS or PCCS, and a VCEK with its chain and list from AMD's KDS.

The only module of this package that uses a network. What it brings is not believed because of where it came from: it is
verified like any other endorsement.

Source: "Intel SGX and Intel TDX PCS API v4" (paths, parameters, chains in response headers); AMD 57230, "VCEK
Certificate and KDS Interface Specification", 4.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Misuse, NotGenuine, Unreachable
from tallystick.evidence import dcap, dcap_parts
from tallystick.formats import dcap_quote, snp_report
from tallystick.formats.dcap_quote import PckExtension
from tallystick.formats.snp_report import Report

PCS = "https://api.trustedservices.intel.com"
KDS = "https://kdsintf.amd.com"
ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
_MAX_BYTES = 4 << 20
_SECONDS = 30.0  # of silence before a request is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    body: bytes
    headers: Mapping[str, str]  # names in lower case


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A service by its base URL. ``http`` is for a PCCS on this machine or a closed network: say so by the URL."""

    base: str
    context: ssl.SSLContext | None = None  # None: the system's authorities

    def get(self, path: str, **parameters: str) -> _Answer:
        """Return the answer to GET ``base + path``.

        Raises:
            Misuse: a base that is no HTTP URL.
            Unreachable: no connection, no such thing there, another status, or an answer that is too long.
        """
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        return _get(self.base.rstrip("/") + path + query, self.context)


def collateral(
    quote: bytes, source: Source, *, update: str = "standard", root_crl: str | None = None
) -> bytes:
    """Return the collateral for ``quote``, as one document that is an endorsement. Nothing of it is verified.

    Args:
        quote: the quote itself, with its PCK chain in it.
        update: "standard" or "early": which TCB evaluation to ask for.
        root_crl: URL of Intel's root revocation list; None asks the source, as a PCCS serves it.

    Raises:
        Malformed, Unsupported: no quote, or answers that are none.
        NotGenuine: the quote has no PCK certificate, so that its platform is not known.
        Unreachable: the service, or a part of it.
    """
    parsed = dcap_quote.parse(quote)
    if parsed.pck_chain is None:
        raise NotGenuine(
            "the quote has no PCK certificate: its platform is not known", code="dcap.pck.missing"
        )
    extension = dcap.pck_extension_of(parsed.pck_chain)
    if extension is None:
        raise Malformed("PCK certificate", at="extensions", want="Intel's SGX extension", got="none")
    tee = "tdx" if parsed.is_tdx else "sgx"
    info = source.get(f"/{tee}/certification/v4/tcb", fmspc=extension.fmspc.hex(), update=update)
    identity = source.get(f"/{tee}/certification/v4/qe/identity", update=update)
    issuer = dcap_parts.pck_issuer(parsed.pck_chain)
    crl = source.get("/sgx/certification/v4/pckcrl", ca=issuer, encoding="der")
    root = (
        source.get("/sgx/certification/v4/rootcacrl") if root_crl is None else _get(root_crl, source.context)
    )
    return _document(info, identity, crl, root, "TD_QE" if parsed.is_tdx else "QE", extension)


def _document(
    info: _Answer,
    identity: _Answer,
    crl: _Answer,
    root: _Answer,
    identity_name: str,
    extension: PckExtension,
) -> bytes:
    tcb = dcap_parts.signed(info.body, "tcbInfo")
    enclave = dcap_parts.signed(identity.body, "enclaveIdentity")
    family = str(tcb.document.get("fmspc", "")).lower()
    if family != extension.fmspc.hex():
        raise Malformed("TCB info", at="fmspc", want=extension.fmspc.hex(), got=family)
    if enclave.document.get("id") != identity_name:
        raise Malformed("QE identity", at="id", want=identity_name, got=str(enclave.document.get("id")))
    chain = _chain(info, "tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
    return json.dumps(
        {
            "pck_crl_issuer_chain": _chain(crl, "sgx-pck-crl-issuer-chain"),
            "root_ca_crl": dcap_parts.list_der(root.body).hex(),
            "pck_crl": dcap_parts.list_der(crl.body).hex(),
            "tcb_info_issuer_chain": chain,
            "tcb_info": tcb.text,
            "tcb_info_signature": tcb.signature,
            "qe_identity_issuer_chain": _chain(identity, "sgx-enclave-identity-issuer-chain"),
            "qe_identity": enclave.text,
            "qe_identity_signature": enclave.signature,
        },
        indent=1,
    ).encode()


def _chain(answer: _Answer, *names: str) -> str:
    value = next((answer.headers[name] for name in names if name in answer.headers), None)
    if value is None:
        raise Malformed("PCS answer", at="headers", want=" or ".join(names), got="none of them")
    return urllib.parse.unquote(value)


def vcek(report: bytes, source: Source) -> dict[str, bytes]:
    """Return the VCEK, the chain above it and its issuer's revocation list for ``report``, by file name.

    Raises:
        Malformed, Unsupported: no report; or one of version 2, which does not say which processor made it.
        Misuse: a report that a VLEK signed, or with a masked chip id: the KDS has no certificate for these.
        Unreachable: the service.
    """
    parsed = snp_report.parse(report[: snp_report.REPORT_BYTES])
    product = parsed.product
    if product is None:
        raise Misuse(
            "a report of version 2 does not say which processor made it: fetch by hand", code="kds.product"
        )
    if parsed.signing_key != "vcek" or not any(parsed.chip_id):
        raise Misuse("the KDS has certificates of VCEKs with a chip id alone", code="kds.key")
    chip = parsed.chip_id[:8] if product == "Turin" else parsed.chip_id
    prefix = f"/vcek/v1/{product}"
    return {
        "vcek.der": source.get(f"{prefix}/{chip.hex()}", **_levels(parsed, product)).body,
        "chain.pem": source.get(f"{prefix}/cert_chain").body,
        "crl.der": source.get(f"{prefix}/crl").body,
    }


def _levels(report: Report, product: str) -> dict[str, str]:
    """Return the KDS's parameters for the reported TCB (AMD 57230, 4.1)."""
    tcb = snp_report.tcb(report.reported_tcb, product)
    fmc = {} if tcb.fmc is None else {"fmcSPL": f"{tcb.fmc:02}"}
    names = {"blSPL": tcb.bootloader, "teeSPL": tcb.tee, "snpSPL": tcb.snp, "ucodeSPL": tcb.microcode}
    return fmc | {name: f"{value:02}" for name, value in names.items()}


def _get(url: str, context: ssl.SSLContext | None) -> _Answer:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.netloc:
        raise Misuse(f"want an https URL, got {url:.80}", code="fetch.url")
    request = urllib.request.Request(url, headers={"Accept": "*/*"})  # noqa: S310  (the scheme is checked above)
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(request, timeout=_SECONDS) as answer:
            body = answer.read(_MAX_BYTES + 1)
            headers = {name.lower(): value for name, value in answer.headers.items()}
    except urllib.error.HTTPError as error:
        with error:
            raise Unreachable(f"{url}: the service answers {error.code}", code="fetch.status") from None
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise Unreachable(f"{url}: {reason}", code="fetch.unreachable") from None
    except Exception as error:  # http.client's own: an answer that is no HTTP
        raise Unreachable(f"{url}: {type(error).__name__}", code="fetch.unreachable") from None
    if len(body) > _MAX_BYTES:
        raise Unreachable(f"{url}: more than {_MAX_BYTES} bytes", code="fetch.size")
    return _Answer(body=body, headers=headers)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Somebody who is asked answers himself; elsewhere nobody vouches for who it is."""

    def redirect_request(self, *_: object) -> None:
        return None
