"""The part of the Common Expression Language that conditions on tokens use: a text to a tree.

Source: https://github.com/google/cel-spec, doc/langdef.md (grammar, operators by precedence, macros).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tallystick.core.errors import Malformed

_WHAT = "CEL condition"
_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>r?(?:"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))
      | (?P<number>[0-9]+\.[0-9]+|0x[0-9A-Fa-f]+u?|[0-9]+u?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>==|!=|<=|>=|&&|\|\||[-+*/%<>!?:.,()\[\]{}])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "`": "`", "?": "?"}
_MOST_CHARACTERS = 1 << 20
_MOST_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal."""

    value: bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Name:
    """A variable: ``assertion``."""

    name: str


@dataclass(frozen=True, slots=True)
class Select:
    """A field: ``target.field``, and ``target["field"]``."""

    target: Expression
    field: str


@dataclass(frozen=True, slots=True)
class Index:
    """An element: ``target[index]``."""

    target: Expression
    index: Expression


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list literal."""

    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class MapOf:
    """A map literal."""

    items: tuple[tuple[Expression, Expression], ...]


@dataclass(frozen=True, slots=True)
class Call:
    """An operator, a function, a method (its target comes first) or a macro."""

    function: str  # "_==_", "!_", "size", ".startsWith", "has"
    arguments: tuple[Expression, ...]


Expression = Constant | Name | Select | Index | ListOf | MapOf | Call


def read(text: str) -> Expression:
    """Return the expression that ``text`` is.

    Raises:
        Malformed: empty, or not in the grammar.
    """
    if len(text) > _MOST_CHARACTERS:
        raise Malformed(_WHAT, at="size", want=f"at most {_MOST_CHARACTERS} characters", got=str(len(text)))
    parser = _Parser(list(_tokens(text)))
    found = parser.expression()
    parser.end()
    return found


def quoted(text: str) -> str:
    """Return ``text`` as a literal.

    Raises:
        ValueError: it has a quote, a backslash or a control character; no claim that is compiled has.
    """
    if re.search(r"['\"\\\x00-\x1f\x7f]", text):
        raise ValueError(f"no text that is compiled has quotes or control characters: {text!r}")
    return f"'{text}'"


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise Malformed(_WHAT, at=f"character {at}", want="a token", got=text[at : at + 20])
        if match.lastgroup != "space":
            yield _Token(str(match.lastgroup), match[0], at)
        at = match.end()


_LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))


class _Parser:
    """Recursive descent, one method for each level of precedence."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def expression(self) -> Expression:
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise Malformed(_WHAT, at="nesting", want=f"at most {_MOST_DEPTH} levels", got="more")
        found = self._binary(0)
        if self._is("?"):
            self._take("?")
            yes = self.expression()
            self._take(":")
            found = Call("_?_:_", (found, yes, self.expression()))
        self._depth -= 1
        return found

    def end(self) -> None:
        if self._at < len(self._tokens):
            raise self._bad("the end")

    def _binary(self, level: int) -> Expression:
        if level == len(_LEVELS):
            return self._unary()
        found = self._binary(level + 1)
        while self._text() in _LEVELS[level] and self._kind() in ("sign", "name"):
            sign = self._next().text
            found = Call(f"_{sign}_", (found, self._binary(level + 1)))
        return found

    def _unary(self) -> Expression:
        signs = []
        while self._is("!") or self._is("-"):
            signs.append(self._next().text)
        if len(signs) > _MOST_DEPTH:
            raise Malformed(_WHAT, at="nesting", want=f"at most {_MOST_DEPTH} levels", got="more")
        found = self._member()
        for sign in reversed(signs):
            if sign == "-" and isinstance(found, Constant) and type(found.value) in (int, float):
                found = Constant(-found.value)  # type: ignore[operator]
            else:
                found = Call(f"{sign}_", (found,))
        return found

    def _member(self) -> Expression:
        found = self._primary()
        while self._is(".") or self._is("["):
            if self._is("["):
                self._take("[")
                index = self.expression()
                self._take("]")
                text = index.value if isinstance(index, Constant) and isinstance(index.value, str) else None
                found = Index(found, index) if text is None else Select(found, text)
                continue
            self._take(".")
            name = self._word()
            found = (
                Call(f".{name}", (found, *self._arguments("(", ")")))
                if self._is("(")
                else Select(found, name)
            )
        return found

    def _primary(self) -> Expression:
        if self._is("("):
            self._take("(")
            found = self.expression()
            self._take(")")
            return found
        if self._is("["):
            return ListOf(self._arguments("[", "]"))
        if self._is("{"):
            return self._map()
        if self._is("."):
            self._take(".")
        token = self._next()
        if token.kind == "text":
            return Constant(_text(token))
        if token.kind == "number":
            digits = token.text.rstrip("u")
            return Constant(float(digits) if "." in digits else int(digits, 0 if "x" in digits else 10))
        if token.kind != "name":
            self._at -= 1
            raise self._bad("a value")
        if token.text in ("true", "false", "null"):
            return Constant({"true": True, "false": False, "null": None}[token.text])
        return Call(token.text, self._arguments("(", ")")) if self._is("(") else Name(token.text)

    def _map(self) -> Expression:
        self._take("{")
        items: list[tuple[Expression, Expression]] = []
        while not self._is("}"):
            if items:
                self._take(",")
            key = self.expression()
            self._take(":")
            items.append((key, self.expression()))
        self._take("}")
        return MapOf(tuple(items))

    def _arguments(self, first: str, last: str) -> tuple[Expression, ...]:
        self._take(first)
        found: list[Expression] = []
        while not self._is(last):
            if found:
                self._take(",")
                if self._is(last):
                    break
            found.append(self.expression())
        self._take(last)
        return tuple(found)

    def _kind(self) -> str:
        return self._tokens[self._at].kind if self._at < len(self._tokens) else ""

    def _text(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _is(self, sign: str) -> bool:
        return self._kind() == "sign" and self._text() == sign

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            raise self._bad("more")
        self._at += 1
        return self._tokens[self._at - 1]

    def _take(self, sign: str) -> None:
        if not self._is(sign):
            raise self._bad(sign)
        self._at += 1

    def _word(self) -> str:
        if self._kind() != "name":
            raise self._bad("a name")
        return self._next().text

    def _bad(self, want: str) -> Malformed:
        if self._at >= len(self._tokens):
            return Malformed(_WHAT, at="end", want=want, got="nothing")
        token = self._tokens[self._at]
        return Malformed(_WHAT, at=f"character {token.at}", want=want, got=token.text)


def _text(token: _Token) -> str:
    if token.text.startswith("r"):
        return token.text[2:-1]
    body = token.text[1:-1]

    def one(match: re.Match[str]) -> str:
        if match[1] not in _ESCAPES:
            raise Malformed(_WHAT, at=f"character {token.at}", want="a known escape", got=match[0])
        return _ESCAPES[match[1]]

    return re.sub(r"\\(.)", one, body)
