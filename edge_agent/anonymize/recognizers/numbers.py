"""ID by form: national, device and record numbers, with their checksums, and what only looks like a record number."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize import checksums
from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_UID = re.compile(
    r"(?<![a-z0-9_.])(?:[0-2]\.(?:0|[1-9]\d{0,38}))(?:\.\d{1,39}){1,30}(?![a-z0-9_]|\.\d)"
)
_STANDARD_UID = "1.2.840.10008."
_OID_BEFORE = re.compile(r"urn:oid:$|(?<![a-z])oid[ :=]{1,2}$")
_SSN = re.compile(r"(?<![a-z0-9_-])\d{3}[- ]\d{2}[- ]\d{4}(?![a-z0-9_]|-\d)")
_CPF = re.compile(r"(?<![a-z0-9_.])\d{3}[. ]?\d{3}[. ]?\d{3}[-./ ]?\d{2}(?![a-z0-9_]|[.-]\d)")
_CNPJ = re.compile(
    r"(?<![a-z0-9_.])[a-z0-9]{2}[. ]?[a-z0-9]{3}[. ]?[a-z0-9]{3}[/ ]?[a-z0-9]{4}[- ]?\d{2}(?![a-z0-9_])"
)
_RG = re.compile(r"(?<![a-z0-9_.])(?:[a-z]{2}-?)?\d{1,2}\.\d{3}\.\d{3}(?:-[\dx])?(?![a-z0-9_.])")
_NIS = re.compile(r"(?<![a-z0-9_.])\d{3}\.\d{5}\.\d{2}-\d(?![a-z0-9_])")
_CNS = re.compile(r"(?<!\d)[125789]\d{2} ?\d{4} ?\d{4} ?\d{4}(?!\d)")
_RESIDENT = re.compile(
    r"(?<![0-9a-z])[1-9]\d{5} ?(?:18|19|20)\d{2} ?(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]) ?\d{3}[\dx](?![0-9a-z])"
)
_CARD = re.compile(r"(?<![a-z0-9_.])(?:\d{4}[ -]?){3}\d{1,7}(?![a-z0-9_])")
_VIN = re.compile(r"(?<![a-z0-9_])(?=[a-z]*\d)(?=\d*[a-z])[a-hj-npr-z0-9]{17}(?![a-z0-9_])")
_DEA = re.compile(r"(?<![a-z0-9_])[a-z]{2}\d{7}(?![a-z0-9_])")
_UDI = re.compile(
    r"\(01\) ?\d{14}(?: ?\(\d{2,3}\) ?[\w./+-]{1,30})*|(?<![a-z0-9_])(?:\+[a-z][a-z0-9]{3,}/[$+]*[a-z0-9/$+.-]{4,40})"
)
_COUNCIL = re.compile(
    r"(?<![a-z])(?:crm|coren|cro|crf|crp|crn|crefito|cress|crea|crbm|rqe|oab)(?:[-/ ](?:ac|al|ap|am|ba|ce|df|es|go|ma|mt|ms|mg|pa|pb|pr|pe|pi|rj|rn|rs|ro|rr|sc|sp|se|to))?[ :.nº°-]{0,4}(\d[\d.]{2,9}(?:-[a-z0-9]{1,4})?)"
)
_MIXED = re.compile(
    r"(?<![a-z0-9._/-])(?=[a-z0-9]*[a-z])(?=(?:[a-z]*\d){5})[a-z0-9]{8,24}(?![a-z0-9_])"
)
_PLATE_CN = re.compile(
    r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领][a-z][·. -]?[a-z0-9]{4,5}[a-z0-9挂学警港澳]?(?![a-z0-9])"
)
_PLATE_BR = re.compile(r"(?<![a-z0-9_-])[a-z]{3}-\d[a-z0-9]\d{2}(?![a-z0-9_-])")
_UUID = re.compile(
    r"(?<![a-z0-9_-])[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}(?![a-z0-9_-])"
)
# One token of letters and digits; what is not a quantity, date or code of the trade and has many digits is a record number.
_TOKEN = re.compile(r"(?<![a-z0-9.,/_-])#?[a-z0-9]+(?:[-/_.][a-z0-9]+)*(?![a-z0-9_])")
_LONG = re.compile(r"(?<![a-z0-9.])(?<![a-z0-9][-/_])\d{7,}(?![a-z0-9]|[.,]\d)")
_PREFIXED = re.compile(
    r"(?<![a-z0-9._/-])(?:[a-z]{1,6}-?\d{5,}[a-z]{0,2}|[a-z]{2,6}-\d{3,}(?:-[a-z0-9]+)*|\d{2,}[a-z]{1,3}\d{3,}[a-z0-9]*|[a-z]{1,3}\d{2}-\d{3,}(?:-\d+)?|\d{2}-?[a-z]{1,3}-?\d{4,})(?![a-z0-9_])"
)
_COMPOUND = re.compile(
    r"(?<![a-z0-9.,/_-])\d{2,}(?:[-/]\d{2,}){1,4}(?:-[\dx])?(?![a-z0-9/_]|[.,-]\d)"
)
_DOTTED = re.compile(r"(?<![a-z0-9.,/_-])\d{1,3}(?:\.\d{3}){2,4}[-/]?\d{0,2}(?![a-z0-9.,/_-])")
_ACRONYM = re.compile(r"(?:covid|sars|icd|iso|hla|ca|cd|il|hpv|vb|b|t|l|c|s|th|pet|ct|mr|mri|us|bi|pi|ti|li|lung|rads|snomed|loinc|cpt|nct|pmid|doi|tnf|hba|ph|po|spo|fio|sao|pao|paco|omnipaque|isovue|visipaque|ultravist|iopamiro|gp|nyha|asa|fev|grade|stage|kernel|version|ver|rev|sw|model|br|qc)-?\d", re.IGNORECASE)  # fmt: skip
_CATALOGUE = re.compile(
    r"(?:lot|lote|batch|ref|catalog(?:ue)?|cat|gtin|ean|upc|icd(?:-?10)?|snomed|loinc|cpt|nct|pmid|pmc|doi|iso|din|model|modelo|version|versao|software|firmware|批号|型号|版本)(?: ?(?:no|nr|number|code))?[ .:=(-]{0,4}$"
)
_YEARS = re.compile(r"(?:18|19|20)\d\d[-/](?:18|19|20)?\d\d")


def find_uids(document: MatchText) -> Iterator[Span]:
    """DICOM instance UIDs; standard ones (SOP classes, transfer syntaxes) and names of code systems are kept."""
    text = document.folded
    for match in _UID.finditer(text):
        value = match.group()
        if value.startswith(_STANDARD_UID) or _OID_BEFORE.search(
            text, max(0, match.start() - 10), match.start()
        ):
            continue
        digits = sum(c.isdigit() for c in value)
        if digits >= 12 and (value.count(".") >= 4 or value.startswith("2.25.")):
            yield Span(match.start(), match.end(), Entity.ID)


def find_national_numbers(document: MatchText) -> Iterator[Span]:
    """Numbers of persons, companies, cards, vehicles and devices whose form or checksum says what they are."""
    text = document.folded
    for pattern in (_SSN, _RG, _NIS, _UDI, _PLATE_CN, _PLATE_BR, _UUID):
        for match in pattern.finditer(text):
            yield Span(match.start(), match.start() + len(match.group().rstrip(".-+")), Entity.ID)
    for match in _COUNCIL.finditer(text):
        yield Span(match.start(1), match.end(1), Entity.ID)
    for pattern, check in _CHECKED:
        for match in pattern.finditer(text):
            if check("".join(c for c in match.group() if c.isalnum())):
                yield Span(match.start(), match.end(), Entity.ID)


# Mr Pham (697722-6): a number alone in brackets behind a name.
_BEHIND_A_NAME = re.compile(r"[A-ZÀ-Þ][A-Za-zÀ-ÿ'-]+ \((?P<number>\d{5,10}(?:[-/]\d{1,4})?)\)")


def find_record_numbers(document: MatchText) -> Iterator[Span]:
    """Long digit runs and tokens of letters and digits that are no quantity."""
    text = document.folded
    for match in _LONG.finditer(text):
        if not _is_quantity(text, match):
            yield Span(match.start(), match.end(), Entity.ID)
    for match in (*_PREFIXED.finditer(text), *_MIXED.finditer(text)):
        value = match.group()
        digits = sum(c.isdigit() for c in value)
        if (
            digits >= 4
            and not value.startswith("0x")
            and not (digits <= 5 and _ACRONYM.match(value))
            and not _is_quantity(text, match)
        ):
            yield Span(match.start(), match.end(), Entity.ID)
    for match in _BEHIND_A_NAME.finditer(document.text):
        yield Span(match.start("number"), match.end("number"), Entity.ID)
    for pattern in (_COMPOUND, _DOTTED):
        for match in pattern.finditer(text):
            value = match.group()
            digits = sum(c.isdigit() for c in value)
            if digits >= 7 and not _YEARS.fullmatch(value) and not _is_quantity(text, match):
                yield Span(match.start(), match.end(), Entity.ID)


def _is_quantity(text: str, match: re.Match[str]) -> bool:
    return (
        follows_unit(text, match.end())
        or _CATALOGUE.search(text, max(0, match.start() - 30), match.start()) is not None
    )


def _is_vin(value: str) -> bool:
    """Seventeen characters with at least four digits; European ones have no check digit, so a wrong one clears nothing."""
    return checksums.is_vin(value) or sum(c.isdigit() for c in value) >= 4


def _is_card(digits: str) -> bool:
    return 13 <= len(digits) <= 19 and checksums.is_luhn(digits)


def _is_cpf_like(digits: str) -> bool:
    return len(digits) == 11


def _is_cnpj_like(value: str) -> bool:
    return checksums.is_cnpj(value) or (len(value) == 14 and value.isdecimal())


def _is_cns_like(digits: str) -> bool:
    return len(digits) == 15


def _is_resident_like(value: str) -> bool:
    return len(value) == 18


def _is_dea_like(value: str) -> bool:
    return len(value) == 9


# A wrong checksum does not clear a number whose form is telling: people mistype.
_CHECKED = (
    (_CPF, _is_cpf_like),
    (_CNPJ, _is_cnpj_like),
    (_CNS, _is_cns_like),
    (_RESIDENT, _is_resident_like),
    (_CARD, _is_card),
    (_VIN, _is_vin),
    (_DEA, _is_dea_like),
)
