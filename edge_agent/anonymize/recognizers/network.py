"""EMAIL, URL, IP_ADDRESS and the numbers of network hardware.

Own patterns: the usual ones drop an address whose domain is no public suffix (``dr@pacs.hospital.local``), and use word
borders, which Han characters do not give.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import STOP
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_AT = r"(?:@| ?[\[(]at[\])] ?)"
_EMAIL = re.compile(
    rf"(?<![a-z0-9._%+-])[a-z0-9][a-z0-9._%+'=-]{{0,63}}{_AT}[a-z0-9](?:[a-z0-9-]{{0,62}})(?:(?:\.| ?[\[(]dot[\])] ?)[a-z0-9-]{{1,62}}){{0,8}}"
)
_URL_BODY = r"[a-z0-9\-._~:/?#\[\]@!$&*+;=%()|{}^\\]"
_SCHEME = re.compile(
    rf"(?<![a-z0-9])(?:[a-z][a-z0-9+.-]{{1,15}}://|www\d?\.|mailto:){_URL_BODY}{{3,2000}}"
)
_TOP_LEVEL = (
    "com|org|net|edu|gov|mil|int|info|biz|io|app|dev|cloud|health|care|clinic|hospital|med|example|test|invalid|"
    "local|lan|internal|intranet|corp|home|localdomain|localhost|arpa|br|cn|uk|ca|au|de|fr|es|pt|nl|ch|jp|kr|hk|tw|sg|eu|us|ai|co"
)
_HOST = re.compile(
    rf"(?<![a-z0-9@._/-])(?:[a-z0-9](?:[a-z0-9-]{{0,61}}[a-z0-9])?\.){{1,8}}(?:{_TOP_LEVEL})(?![a-z0-9-])(?!\.[a-z0-9])"
    rf"(?::\d{{2,5}})?(?:/{_URL_BODY}{{0,2000}})?"
)
_UNC = re.compile(r"\\\\[a-z0-9._$-]{2,64}\\[a-z0-9._$\\ -]{1,200}")
_TRAILING = ".,;:!?'\")]}>|*\\"
_IPV4 = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d]|\.\d)")
_IPV6 = re.compile(
    r"(?<![a-z0-9:.])(?:[0-9a-f]{0,4}:){2,7}(?:[0-9a-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?:%[a-z0-9]+)?(?![a-z0-9:])"
)
_COLONS = re.compile(r"[0-9a-f]{1,4}:[0-9a-f]{0,4}:[0-9a-f]{0,4}:[0-9a-f]{0,4}:")
_VERSION = re.compile(
    r"(?:version|versao|ver|sw|software|firmware|fw|release|rel|build|rev|revision|syngo|driver|v|版本|固件|软件)[ .:=]{0,3}(?:[a-z0-9.]{1,12} )?$"
)
_MAC = re.compile(
    r"(?<![a-z0-9:-])(?:(?:[0-9a-f]{2}([:-]))(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}(?:\1[0-9a-f]{2}){0,2}|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4})(?![a-z0-9:-])"
)
_TITLE_BEFORE_ADDRESS = re.compile(
    r"(?<![A-Za-z0-9_-])([A-Z][A-Z0-9_-]{2,15})(?= ?[(\[/]? ?\d{1,3}(?:\.\d{1,3}){3}(?![\d.]))"
)
_NETWORK_WORDS = frozenset(
    (
        "ip",
        "ipv4",
        "host",
        "server",
        "servidor",
        "gateway",
        "addr",
        "address",
        "dns",
        "dhcp",
        "vpn",
        "lan",
        "wan",
        "tcp",
        "udp",
        "http",
        "ping",
        "node",
        "port",
        "router",
        "switch",
        "proxy",
        "src",
        "dst",
        "info",
        "warn",
        "error",
        "debug",
        "endereco",
        "rede",
    )
)
_TITLE_AT_HOST = re.compile(
    r"(?<![a-z0-9._-])([a-z0-9][a-z0-9_ -]{0,14}[a-z0-9])@(?=\d{1,3}(?:\.\d{1,3}){3})"
)


def find_emails(document: MatchText) -> Iterator[Span]:
    """E-mail addresses, with internal domains and ``(at)``."""
    if "@" not in document.folded and "at)" not in document.folded and "at]" not in document.folded:
        return
    for match in _EMAIL.finditer(document.folded):
        value = match.group()
        domain = value.rpartition("@")[2] if "@" in value else value
        if _IPV4.fullmatch(domain.rstrip(".")):
            continue  # an application entity at an address, see find_hardware
        yield Span(match.start(), match.start() + len(value.rstrip(".-'")), Entity.EMAIL)


def find_urls(document: MatchText) -> Iterator[Span]:
    """Addresses with a scheme, with ``www``, or of a bare host of a known or internal domain."""
    text = document.folded
    if "." not in text and "://" not in text and "\\\\" not in text:
        return
    for pattern in (_SCHEME, _HOST, _UNC):
        for match in pattern.finditer(text):
            end = match.end()
            while end > match.start() and text[end - 1] in _TRAILING:
                if text[end - 1] == ")" and "(" in text[match.start() : end]:
                    break
                end -= 1
            if pattern is _HOST and _is_abbreviation(document, match.start(), end):
                continue
            if end - match.start() > 3:
                yield Span(match.start(), end, Entity.URL)


def find_addresses(document: MatchText) -> Iterator[Span]:
    """IPv4 and IPv6; a version number looks alike, and what stands before it decides."""
    text = document.folded
    if text.count(".") >= 3:
        for match in _IPV4.finditer(text):
            if all(int(part) < 256 for part in match.group().split(".")) and not _VERSION.search(
                text, max(0, match.start() - 30), match.start()
            ):
                yield Span(match.start(), match.end(), Entity.IP_ADDRESS)
    if text.count(":") >= 2 and ("::" in text or _COLONS.search(text)):
        for match in _IPV6.finditer(text):
            value = match.group()
            try:
                address = ipaddress.IPv6Address(value.partition("%")[0])
            except ValueError:
                continue
            if int(address) and (any(c in "abcdef" for c in value) or value.count(":") >= 4):
                yield Span(match.start(), match.end(), Entity.IP_ADDRESS)


def find_hardware(document: MatchText) -> Iterator[Span]:
    """MAC addresses, and application entity titles that stand before an address."""
    text = document.folded
    if ":" in text or "-" in text or "." in text:
        for match in _MAC.finditer(text):
            if any(c.isdigit() for c in match.group()):
                yield Span(match.start(), match.end(), Entity.ID)
    for match in _TITLE_BEFORE_ADDRESS.finditer(document.text):
        if match[1].lower() in STOP or match[1].lower() in _NETWORK_WORDS:
            continue
        yield Span(match.start(1), match.end(1), Entity.ID)
    if "@" in text:
        for match in _TITLE_AT_HOST.finditer(text):
            start = match.start() + match[1].rfind(" ") + 1
            yield Span(start, match.end(1), Entity.ID)


def _is_abbreviation(document: MatchText, start: int, end: int) -> bool:
    """``b.i.d``, ``e.g`` and two sentences without a space between them are no hosts."""
    value = document.text[start:end]
    if "/" in value or ":" in value:
        return False
    parts = value.split(".")
    if len(parts) == 2 and parts[1][:1].isupper() and not parts[0].isupper():
        return True  # "weeks.Co"
    if (
        parts[-1].lower()
        in (
            "co",
            "us",
            "de",
            "es",
            "pt",
            "ca",
            "ch",
            "med",
            "care",
            "int",
            "home",
            "test",
            "health",
        )
        and len(parts) == 2
    ):
        return True
    return all(len(part) <= 2 for part in parts) or all(part.isdigit() for part in parts[:-1])
