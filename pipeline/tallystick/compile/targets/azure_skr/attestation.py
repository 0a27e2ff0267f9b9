"""An attestation policy's text (Microsoft Azure Attestation), to rules.

Source: Microsoft, "Claim and claim rules" (grammar), "Attestation policy version 1.2" (segments), "Claim rule
functions".
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.core.errors import Malformed, Unsupported

VERSIONS = ("1.0", "1.1", "1.2")
SECTIONS = ("configurationrules", "authorizationrules", "issuancerules")
_WHAT = "attestation policy"
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>"(?:[^"\\\n]|\\.)*")
      | (?P<number>0x[0-9A-Fa-f]+|[0-9]+(?:\.[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>=>|==|!=|<=|>=|&&|[<>=!\[\](){}:;,.])""",
    re.VERBOSE,
)
_MOST_BYTES = 4 << 20
_ACTIONS = ("permit", "deny", "issue", "add", "issueproperty")

Literal = bool | int | str


@dataclass(frozen=True, slots=True)
class Computed:
    """A value that is not a literal: ``c.value``, or a function of it."""

    text: str  # "c.value", "JmesPath(c.value,"…")"


@dataclass(frozen=True, slots=True)
class Property:
    """One comparison inside of a condition: ``value >= 3``."""

    name: str  # "type", "value", "issuer", "valueType"
    operator: str
    value: Literal | Computed


@dataclass(frozen=True, slots=True)
class Condition:
    """At least one claim meets every property; with ``negated``, none does."""

    identifier: str
    properties: tuple[Property, ...]
    negated: bool

    def literal(self, name: str) -> Literal | None:
        """Return what the property ``name`` must equal, or None when it is not pinned to a literal."""
        for one in self.properties:
            if one.name == name and one.operator == "==" and not isinstance(one.value, Computed):
                return one.value
        return None


@dataclass(frozen=True, slots=True)
class Rule:
    """``conditions => action(arguments)``. Without conditions the action is always taken."""

    conditions: tuple[Condition, ...]
    action: str
    arguments: tuple[tuple[str, Literal | Computed], ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestationPolicy:
    """One attestation policy."""

    version: str
    sections: tuple[tuple[str, tuple[Rule, ...]], ...]

    def rules(self, section: str) -> tuple[Rule, ...]:
        """Return the rules of a section; none when it is not there."""
        return dict(self.sections).get(section, ())


def policy_hash(data: bytes) -> str:
    """Return the claim ``x-ms-policy-hash`` of a policy that is set unsigned, as text.

    Source: Microsoft, "Claim sets": BASE64URL(SHA256(UTF8(BASE64URL(UTF8(policy text))))).
    """
    return _url64(hashlib.sha256(_url64(data).encode()).digest())


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def read(data: bytes) -> AttestationPolicy:
    """Return the attestation policy that ``data`` is.

    Raises:
        Malformed: not in the grammar. Unsupported: another version of it.
    """
    if len(data) > _MOST_BYTES:
        raise Malformed(_WHAT, at="size", want=f"at most {_MOST_BYTES} bytes", got=str(len(data)))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Malformed(_WHAT, at=f"byte {error.start}", want="UTF-8", got=error.reason) from None
    return _Parser(text).policy()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


class _Parser:
    """Recursive descent over the tokens; every method takes what it is named for."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def policy(self) -> AttestationPolicy:
        self._word("version")
        self._sign("=")
        version = self._take("number", "a version").text
        if version not in VERSIONS:
            raise Unsupported(_WHAT, at="version", want="one of " + ", ".join(VERSIONS), got=version)
        self._sign(";")
        found: dict[str, tuple[Rule, ...]] = {}
        while self._peek() is not None:
            token = self._take("name", "a section")
            if token.text not in SECTIONS or token.text in found:
                raise self._bad(token, "one of " + ", ".join(SECTIONS) + ", each once")
            found[token.text] = tuple(self._section())
        return AttestationPolicy(version=version, sections=tuple(found.items()))

    def _section(self) -> Iterator[Rule]:
        self._sign("{")
        while not self._is("}"):
            yield self._rule()
        self._sign("}")
        self._sign(";")

    def _rule(self) -> Rule:
        conditions: list[Condition] = []
        while not self._is("=>"):
            if conditions:
                self._sign("&&")
            conditions.append(self._condition())
        line = self._sign("=>").line
        action = self._take("name", "an action")
        if action.text not in _ACTIONS:
            raise self._bad(action, "one of " + ", ".join(_ACTIONS))
        self._sign("(")
        arguments: list[tuple[str, Literal | Computed]] = []
        while not self._is(")"):
            if arguments:
                self._sign(",")
            name = self._take("name", "an argument").text
            self._sign("=")
            arguments.append((name, self._value()))
        self._sign(")")
        self._sign(";")
        if (action.text in ("permit", "deny")) == bool(arguments):
            raise self._bad(action, "arguments for a claim, and none for permit and deny")
        return Rule(tuple(conditions), action.text, tuple(arguments), line)

    def _condition(self) -> Condition:
        negated = self._is("!")
        if negated:
            self._sign("!")
        identifier = ""
        if not self._is("["):
            identifier = self._take("name", "a condition").text
            self._sign(":")
        self._sign("[")
        properties: list[Property] = []
        while not self._is("]"):
            if properties:
                self._sign(",")
            properties.append(self._property())
        token = self._sign("]")
        if not properties:
            raise self._bad(token, "at least one property")
        return Condition(identifier, tuple(properties), negated)

    def _property(self) -> Property:
        name = self._take("name", "a property")
        if name.text not in ("type", "value", "issuer", "valueType"):
            raise self._bad(name, "type, value, issuer or valueType")
        sign = self._take("sign", "a comparison")
        if sign.text not in ("==", "!=", "<", "<=", ">", ">="):
            raise self._bad(sign, "a comparison")
        return Property(name.text, sign.text, self._value())

    def _value(self) -> Literal | Computed:
        token = self._next("a value")
        if token.kind == "text":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        if token.kind == "number" and "." not in token.text:
            return int(token.text, 0) if token.text.startswith("0x") else int(token.text)
        if token.kind == "name" and token.text in ("true", "false"):
            return token.text == "true"
        if token.kind != "name":
            raise self._bad(token, "a text, a whole number, a boolean, a property of a claim, or a function")
        if self._is("("):
            return Computed(f"{token.text}({self._arguments()})")
        if self._is("."):
            self._sign(".")
            return Computed(f"{token.text}.{self._take('name', 'a property').text}")
        return Computed(token.text)

    def _arguments(self) -> str:
        self._sign("(")
        found: list[str] = []
        while not self._is(")"):
            if found:
                self._sign(",")
            value = self._value()
            found.append(value.text if isinstance(value, Computed) else repr(value))
        self._sign(")")
        return ",".join(found)

    def _peek(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _is(self, sign: str) -> bool:
        token = self._peek()
        return token is not None and token.kind == "sign" and token.text == sign

    def _next(self, want: str) -> _Token:
        token = self._peek()
        if token is None:
            raise Malformed(_WHAT, at="end", want=want, got="nothing")
        self._at += 1
        return token

    def _take(self, kind: str, want: str) -> _Token:
        token = self._next(want)
        if token.kind != kind:
            raise self._bad(token, want)
        return token

    def _sign(self, sign: str) -> _Token:
        token = self._next(sign)
        if token.kind != "sign" or token.text != sign:
            raise self._bad(token, sign)
        return token

    def _word(self, word: str) -> None:
        token = self._next(word)
        if token.text != word:
            raise self._bad(token, word)

    def _bad(self, token: _Token, want: str) -> Malformed:
        return Malformed(_WHAT, at=f"line {token.line}", want=want, got=token.text)


def _tokens(text: str) -> Iterator[_Token]:
    at, line = 0, 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Malformed(_WHAT, at=f"line {line}", want="a token", got=text[at : at + 20])
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], line)
        line += match[0].count("\n")
        at = match.end()
