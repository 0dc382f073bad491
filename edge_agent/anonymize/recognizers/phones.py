"""PHONE: mobile, land line, fax, pager and bare extensions of the United States, Britain, Brazil and China, and ``+NN``."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_SEP = r"[ .\-/]{0,2}"
_S1 = r"[ .\-/]"
_BEFORE, _AFTER = r"(?<![\d+])(?<!\d[./-])(?<![a-z]-)", r"(?!\d|[.,/-]\d)"
_NANP = rf"(?:\+?1{_SEP})?(?:\([2-9]\d\d\){_SEP}\d{{3}}{_S1}?\d{{4}}|[2-9]\d\d{_S1}[ ]?\d{{3}}{_S1}\d{{4}})"
_BRAZIL = rf"(?:\+?55{_SEP})?(?:\(0?\d\d\){_SEP}(?:9[ .]?)?\d{{4}}{_S1}?\d{{4}}|0?[1-9]\d[ .-](?:9[ .]?)?\d{{4}}{_S1}\d{{4}}|9[ .]?\d{{4}}-\d{{4}}|[2-5]\d{{3}}-\d{{4}})"
_TOLL = rf"0?[3-9]00{_S1}\d{{3}}{_S1}?\d{{4}}|400{_S1}?\d{{3,4}}{_S1}?\d{{3,4}}"
_CHINA = rf"(?:(?:\+|00)?86{_SEP})?1[3-9]\d{_SEP}\d{{4}}{_SEP}\d{{4}}|\(?0(?:10|2\d|[3-9]\d\d)\)?{_S1}?\d{{4}}{_S1}?\d{{3,4}}"
_BRITAIN = r"\(?0(?:7\d{3}|1\d{3}|2\d|1\d1|11\d)\)?[ -]\d{3,4}[ -]?\d{3,4}|\(?0\d{4}\)? \d{5,6}"
_WORLD = rf"(?:\+|(?<!\d)00)[1-9]\d{{0,2}}(?:{_SEP}\(?\d{{1,5}}\)?){{2,6}}"
_SURE = re.compile(rf"{_BEFORE}(?:{_WORLD}|{_NANP}|{_BRAZIL}|{_TOLL}|{_CHINA}|{_BRITAIN}){_AFTER}")
_LOCAL = re.compile(rf"{_BEFORE}[2-9]\d\d[-.]\d{{4}}{_AFTER}")
_ANY = r"\(?\+?\d(?:[ .\-/()]{0,2}\d){4,14}"
_WORDS = (
    r"tele?phones?(?: number)?|phone(?: number| no\.?)?|ph|tel|mobile(?: number)?|mob|cell(?: ?phone)?(?: number)?|fax|facsimile|call(?:ed|ing|s)?(?: back)?(?: (?:her|him|me|us|them))?(?: (?:at|on|from))?|contact(?: number| no\.?)?|"
    r"dial|ring|text(?:ed)?|sms|hotline|land ?line|switchboard|reach(?:ed)?(?: (?:her|him|me|us|them))? (?:at|on)|whats ?app|direct line|"
    r"telefone|fone|celular|cel|tel\.?/?fax|contato|ligar(?: (?:para|no|pro))?|ligou do(?: numero)?|zap|recado|"
    r"电话|手机|联系电话|联系方式|传真|座机|拨打|致电|手机号码?|电话号码|微信|热线|固话|来电"
)
_WITH_CONTEXT = re.compile(
    rf"(?:(?<![a-z])(?:{_WORDS}))(?:[ .:#=()-]|no\.|n[º°o]\.?|number|is|号|号码|为|是|:|at|to|on){{0,6}}({_ANY})(?!\d)"
)
_EXTENSION = re.compile(
    r"(?:(?<![a-z])(?:ext(?:ension|n|en)?|pager|page|paged|beeper|bleep(?:ed)?|ramal|intercom|bip|voip)|分机号?|转|内线|短号|(?<=\d{4} )x|(?<=\d{4})x|(?<![a-z0-9.])x(?=\d{4}(?!\d)))"
    r"(?:[ .:#=]|no\.|number|is|to|号|为|是){0,4}(\d[\d-]{1,7})(?!\d|[.-]\d| ?(?:mm|cm|mg|ml|weeks|days))"
)
_BEFORE_PAGER = re.compile(r"(?<![\d./-])(\d{3,7}) (?:pager|beeper|bip)(?![a-z])")
_YEAR_RANGE = re.compile(r"(?:19|20)\d\d-(?:19|20)\d\d")


def find_phones(document: MatchText) -> Iterator[Span]:
    """Telephone numbers by their form, or any digits after a word such as ``tel`` or ``手机``."""
    text = document.flat
    for match in _SURE.finditer(text):
        value = match.group()
        digits = sum(c.isdigit() for c in value)
        if (
            digits < 7
            or _YEAR_RANGE.fullmatch(value)
            or (digits < 10 and follows_unit(text, match.end()))
        ):
            continue
        yield Span(match.start() + (len(value) - len(value.lstrip(" "))), match.end(), Entity.PHONE)
    for match in _LOCAL.finditer(text):
        if not follows_unit(text, match.end()) and not _YEAR_RANGE.fullmatch(match.group()):
            yield Span(match.start(), match.end(), Entity.PHONE)
    for match in _WITH_CONTEXT.finditer(text):
        digits = sum(c.isdigit() for c in match[1])
        if digits >= 7 or (digits >= 5 and not follows_unit(text, match.end())):
            yield Span(match.start(1), match.end(1), Entity.PHONE)
    for match in _BEFORE_PAGER.finditer(text):
        yield Span(match.start(1), match.end(1), Entity.PHONE)
    for match in _EXTENSION.finditer(text):
        yield Span(match.start(1), match.start(1) + len(match[1].rstrip("-")), Entity.PHONE)
