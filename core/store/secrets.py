"""Passwords and tokens in texts that people and files get to see: one rule, used everywhere.

A secret is the password of a URL in any spelling, the value of a parameter of a URL or of a
connection string with a telling name, and the value of an environment variable that carries
credentials.
"""

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote, unquote_plus

MASK = "***"
# All are bounded, so that a long text takes time in proportion to its length.
_SCHEME = r"[A-Za-z][A-Za-z0-9+.\-]{0,30}://"
_PORT = r"\d{1,5}(?:[/?#\s\"'<>,;.)]|$)"
_LOGIN = rf"(?:[^\s\"'<>:/?#@\[]{{0,100}}:(?!{_PORT})(?:(?!://)[^\n]){{0,200}}?@)?"
URL = re.compile(
    rf"(?<=')(?:{_SCHEME}{_LOGIN})[^'\n]{{1,2000}}(?=')"
    rf"|(?<=\")(?:{_SCHEME}{_LOGIN})[^\"\n]{{1,2000}}(?=\")"
    rf"|{_SCHEME}{_LOGIN}[^\s\"'<>]*"
)
"""A URL in quotes goes to the closing quote, another one to a blank or a quote: a password may hold
either, and goes to its "@"."""
TELLING = re.compile(r"pass|pwd?|token|secret|key|auth|sig|cred|jwt|\bcode\b", re.IGNORECASE)
PARAMETER = re.compile(
    r"(?P<head>[?&;#](?P<name>[^=&;#\s]{1,100})=)(?P<value>\{[^{}]{0,500}\}|[^&;#]*)"
)
CONNECTION = re.compile(
    r"(?P<head>(?:(?<![A-Za-z0-9_.])|(?<=%3B)|(?<=%26)|(?<=%20))"
    r"(?:[A-Za-z_-]{0,40}(?:passw(?:or)?d|secret|access_?token|auth_?token|api_?key|access_?key)"
    r"|pwd?|pass|token)"
    r"(?:\s{0,3}(?:=|%3D|%253D)\s{0,3}|[\"']\s{0,3}[=:]\s{0,3}))"
    r"(?!\*\*\*)(?P<value>'[^'\n]*'|\"[^\"\n]*\"|\{[^{}\n]*\}"
    r"|(?:(?!%3B|%26|%20|%253B)[^\s;&,\"'<>)])+)",
    re.IGNORECASE,
)
"""A telling parameter outside URLs, as in ``host=h password=p`` or encoded in a parameter. Its name
is a whole word, since settings have names like ``token_weight`` and ``sigma``."""
IN_PATH = re.compile(r"(?<=:)[^:/@]+(?=@)")
"""What looks like a password elsewhere in a URL, such as in the name of a file."""
SECRET_VARIABLES = re.compile(
    r"(?:PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIALS?|API_?KEY|ACCESS_KEY)$", re.IGNORECASE
)
URL_VARIABLES = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI")
WORDS = frozenset({"true", "false", "none", "null", "default"})
SHORTEST = 4
"""Shorter secrets are masked inside URLs alone: elsewhere they would hide ordinary words."""


def without_secrets(text: str, *urls: str | None) -> str:
    """The text with every secret masked: those of URLs in it, of the environment, and of ``urls``,
    in plain and in percent-encoded spelling.
    """
    given = [url for url in urls if url]
    for url in sorted(given, key=len, reverse=True):
        text = text.replace(url, masked_url(url))
    known = {
        plain
        for secret in _known(given)
        for plain in (secret, unquote(secret), unquote_plus(secret))
        if len(plain) >= SHORTEST
    }
    for secret in sorted(known, key=len, reverse=True):
        text = _pattern(secret).sub(MASK, text)
    text = URL.sub(lambda found: masked_url(found[0]), text)
    return CONNECTION.sub(rf"\g<head>{MASK}", text)


def masked_url(url: str) -> str:
    """A URL whose password and telling parameters are masked."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return url
    user, password, place = _parts(scheme, rest)
    if user is None:
        rest = IN_PATH.sub(MASK, rest)
    else:
        shown = f"{user}:{MASK}" if password is not None and user else (user or MASK)
        rest = f"{MASK if password == user else shown}@{place}"
    return f"{scheme}://{PARAMETER.sub(_masked_parameter, rest)}"


def _masked_parameter(found: "re.Match[str]") -> str:
    return f"{found['head']}{MASK}" if found["value"] and _tells(found) else found[0]


def _tells(parameter: "re.Match[str]") -> bool:
    """Whether the value of a parameter is a secret, or holds one, as a connection string does."""
    value = unquote(unquote(parameter["value"]))
    inner = CONNECTION.search(value) or URL.sub(lambda found: masked_url(found[0]), value) != value
    return bool(TELLING.search(unquote(parameter["name"])) or inner)


def _parts(scheme: str, rest: str) -> tuple[str | None, str | None, str]:
    """User, password and the rest of what follows the scheme; None where there is none.

    A password may hold any sign, so it ends at the last "@". The user of a web address may be a
    token, and is its own password here.
    """
    end = next((i for i, sign in enumerate(rest) if sign in "/?#"), len(rest))
    authority = rest if "@" in rest and ":" in rest[:end] and "@" not in rest[:end] else rest[:end]
    login, at, _ = authority.rpartition("@")
    if not at:
        return None, None, rest
    place = rest[len(login) + 1 :]
    user, colon, password = login.partition(":")
    if colon:
        return user, password, place
    return user, user if scheme.lower().startswith("http") else None, place


def _known(urls: list[str]) -> Iterator[str]:
    """The secrets of these URLs and of the environment."""
    found = [*urls, *(os.environ.get(name, "") for name in URL_VARIABLES)]
    for url in found:
        scheme, separator, rest = url.partition("://")
        if separator:
            yield _parts(scheme, rest)[1] or ""
            yield from IN_PATH.findall(rest)
            for parameter in PARAMETER.finditer(rest):
                if _tells(parameter):
                    yield parameter["value"]
                for inner in CONNECTION.finditer(unquote(parameter["value"])):
                    yield inner["value"].strip("'\"{}")
    for name, value in os.environ.items():
        if SECRET_VARIABLES.search(name) and value.lower() not in WORDS:
            yield value


def _pattern(secret: str) -> "re.Pattern[str]":
    """A secret in any spelling: each of its signs as it is, or percent-encoded."""
    signs = (
        f"(?:{re.escape(sign)}|{_encoded(sign)}{'|[+]' if sign == ' ' else ''})" for sign in secret
    )
    return re.compile("".join(signs))


def _encoded(sign: str) -> str:
    """A pattern of the percent-encoding of a sign, in large and small letters."""
    codes = (f"{byte:02X}" for byte in sign.encode(errors="surrogatepass"))
    return "".join(
        "%" + "".join(f"[{digit}{digit.lower()}]" if digit.isalpha() else digit for digit in code)
        for code in codes
    )
