"""ORGANIZATION: hospitals, clinics, laboratories, homes, employers, schools, by the word that says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import COMMON_NAMES, MEDICAL, PARTICLES, STOP, read_words
from edge_agent.anonymize.recognizers.names import LATIN
from edge_agent.anonymize.recognizers.trie import trie
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_KINDS_EN = """
hospital|hospitals|medical center|medical centre|medical group|medical associates|clinic|clinics|health|healthcare|health system|health center|health centre|health services|health care|health network|health partners|hospice|nursing home|care home|rest home|care center|care centre|rehabilitation|rehabilitation center|rehabilitation centre|rehab|
imaging|imaging associates|imaging center|imaging centre|radiology|radiology associates|radiology group|diagnostics|laboratory|laboratories|labs|pathology|pathology associates|pathology group|cardiology|cardiology group|cardiology associates|orthopedics|orthopaedics|oncology|dermatology|urology|pediatrics|paediatrics|neurology associates|gastroenterology associates|family practice|family clinic|family medicine|family health|
surgery center|surgery centre|surgical center|urgent care|emergency center|dialysis|dialysis center|dialysis centre|pharmacy|physical therapy|dental|eye institute|eye center|cancer center|cancer centre|cancer institute|heart center|heart institute|memorial|infirmary|sanatorium|asylum|manor|senior living|assisted living|retirement home|retirement community|retirement village|birth center|blood bank|wellness center|medical practice|surgery|
university|college|school|academy|institute|elementary|elementary school|high school|middle school|primary school|secondary school|kindergarten|preschool|daycare|day care|church|parish|synagogue|mosque|
police department|fire department|sheriff's office|sheriff's department|department of corrections|prison|jail|logistics|food|foods|insurance|bank|credit union|manufacturing|construction|steel|steel works|steelworks|trucking|freight|motors|airlines|airways|industries|bakery|brewery|supermarket|supermarkets|electric|electronics|chemicals|pharmaceuticals|
holdings|partners|associates|group|foundation|inc|inc.|llc|llp|ltd|limited|corp|corporation|company|co|plc|gmbh|works|mill|mills|mine|mines|farm|farms|shipyard|railway|railroad|transit|enterprises|technologies|systems|solutions|consulting|hotel|resort|store|stores|brothers|& sons|& co|plant|factory|warehouse|outfitters|textiles|paper|brewing|dairy|produce|landscaping|plumbing|roofing|realty|law firm|media|press|studios|theater|theatre|museum|library|post office|shelter|county jail
"""
_WORD = rf"(?:(?:[Ss]t|[Mm]t|[Ff]t|[Dd]r|ST|MT)\.|[{LATIN}0-9](?:[{LATIN}0-9'&-]|\.(?=[{LATIN}]))*)"
_KIND = re.compile(
    rf"(?<![a-z0-9-]){trie(k for k in _KINDS_EN.replace(chr(10), '').split('|') if k)}(?![a-z0-9-])"
)
_BEFORE = re.compile(rf"(?:(?:{_WORD}|&)[ \n]){{1,5}}$")
_AFTER = re.compile(r"(?i:,? (?:inc|llc|ltd|corp|group|partners|foundation|trust|associates)\b\.?)")
_OF_PLACE = re.compile(rf"(?i: (?:of|at) (?:the )?)(?=[{LATIN}])")
_REACH = 70  # characters before a kind in which its name may begin
_OF = re.compile(
    rf"(?<![{LATIN}])(?i:(?:university|children's|veterans affairs|va|general|regional|memorial|community|st\.?|cancer|heart)?[ ]?(?:hospital|medical center|university|institute|college|school|bank|church|sisters|diocese|city|county|clinic)) (?i:of) (?:the )?((?:[{LATIN}][{LATIN}'.-]+ ?){{1,4}})"
)
_EMPLOYED = re.compile(
    r"(?<![a-z])(?:works?(?: [a-z]+){0,3} (?:at|for)|worked (?:at|for)|working (?:at|for)|employed (?:by|at|with)|employee of|employer is|job at|retired from|owner of|teaches at|student at|attends|studies at|enrolled at|excused from|plan of|trabalha (?:na|no|em|para a|para o)(?: empresa)?|funcionari[oa] d[aeo]|empregad[oa] d[aeo]|afastar-se d[aeo]|aposentad[oa] d[aeo]|estuda n[oa]|alun[oa] d[oa]) (?:the )?"
)
_PREFIX_PT = (
    r"hospital(?: (?:municipal|regional|estadual|universitario|geral|infantil|das clinicas|de clinicas|maternidade|escola|militar|central|particular|sao|santa|do|da|de))?|hosp\.|santa casa(?: de misericordia)?|upa(?: 24h)?|ubs|usf|esf|caps|ama|clinica(?: medica| odontologica| de imagem)?|policlinica|laboratorio|lab\.|maternidade|"
    r"instituto|centro (?:medico|de saude|clinico|hospitalar|de diagnostico|de imagem|universitario|educacional|de reabilitacao)|posto de saude|unidade (?:basica de saude|de pronto atendimento|de saude)|pronto[- ]socorro|ambulatorio|casa de repouso|lar(?: de idosos)?|asilo|fundacao|associacao|"
    r"escola(?: estadual| municipal)?|colegio|creche|faculdade|universidade(?: federal| estadual)?(?: d[aeo])?|metalurgica|construtora|transportadora|supermercado|mercado|padaria|farmacia|drogaria|industria|fabrica|usina|cooperativa|prefeitura(?: municipal)?(?: d[aeo])?|banco|empresa|grupo|igreja|paroquia|oficina|auto pecas|siderurgica|textil|viacao|editora|restaurante|hotel|loja|seguradora|unimed|convenio"
)
_PREFIXED_PT = re.compile(rf"(?<![{LATIN}0-9])(?:{_PREFIX_PT})(?![{LATIN}0-9])")
_CONTINUES = re.compile(
    rf"[ \n]((?:[dD][aeoAEO]s?|e|E|DE|DA|DO|DOS|DAS)[ \n])?([{LATIN}0-9][{LATIN}0-9'.&-]*)"
)
_GENERIC = read_words("generic_organizations")
_CN_KIND = (
    "医院|卫生院|卫生所|卫生室|诊所|门诊部|体检中心|健康中心|卫生服务中心|卫生服务站|医疗中心|影像中心|检验中心|检验所|康复中心|妇幼保健院|保健院|疾控中心|血站|急救中心|养老院|敬老院|福利院|护理院|疗养院|医学院|大学|学院|学校|中学|小学|幼儿园|"
    "公司|集团|工厂|厂|银行|保险|药店|药房|研究所|研究院|派出所|公安局|法院|检察院|事务所|商场|超市|酒店|饭店|宾馆|合作社|工作室|出版社|报社|电视台"
)
_CN_ORGANIZATION = re.compile(
    rf"[\u4e00-\u9fffA-Za-z0-9]{{1,16}}?(?:{_CN_KIND})(?:[\u4e00-\u9fff]{{1,4}}(?:分院|院区|分公司|校区|支行|分行))?"
)
_CN_CUT = re.compile(
    r".*(?:位于|来自|转往|转至|转入|转到|前往|转自|就诊于|就职于|任职于|工作于|毕业于|供职于|住院于|在职于|入住|收入|送往|送至|送到|寄往|寄到|寄至|到达|抵达|转出|预约|联系|建议|回到|返回|随访|就读于|患者|病人|系|在|于|到|往|至|由|从|去|是|为|与|和|及|给|被|经|向|对|将|该|本|我|他|她|曾|原|现|回|赴|请|的|:|,)"
)
_CN_GENERIC = read_words("chinese_generic_organizations")


def find_organizations(document: MatchText) -> Iterator[Span]:
    """English names with the kind behind, Portuguese with the kind before, and employers."""
    yield from _suffixed(document)
    yield from _prefixed(document)
    for match in _EMPLOYED.finditer(document.folded):
        end = _proper_words(document, match.end())
        if end > match.end():
            yield Span(match.end(), end, Entity.ORGANIZATION)


def find_chinese_organizations(document: MatchText) -> Iterator[Span]:
    """Chinese names with the kind behind."""
    for match in _CN_ORGANIZATION.finditer(document.text):
        cut = _CN_CUT.match(match.group())
        start = match.start() + (cut.end() if cut and cut.end() < len(match.group()) else 0)
        value = document.text[start : match.end()]
        if value not in _CN_GENERIC and len(value) >= 4:
            yield Span(start, match.end(), Entity.ORGANIZATION)


def _suffixed(document: MatchText) -> Iterator[Span]:
    text, folded = document.text, document.folded
    for match in _KIND.finditer(document.flat):
        before = _BEFORE.search(text, max(0, match.start() - _REACH), match.start())
        if before is None:
            continue
        start = _left_edge(document, before.start(), match.start())
        if start >= match.start():
            continue
        words = [w.strip(".,'") for w in folded[start : match.start()].split()]
        telling = [
            w
            for w in words
            if w not in _GENERIC
            and (w not in STOP or w in COMMON_NAMES)
            and w not in MEDICAL
            and not w.isdigit()
        ]
        kind = match.group()
        if not telling:
            continue
        capitalised = text[start].isupper() and text[match.start()].isupper()
        weak = kind in _WEAK_KINDS
        if (weak or kind not in _SURE_LOWER) and not capitalised:
            continue
        if (
            weak
            and not any(c.islower() for c in text[start : match.end()])
            and kind not in _SURE_CAPITALS
        ):
            continue
        end = match.end()
        if tail := _AFTER.match(text, end):
            end = tail.end()
        if place := _OF_PLACE.match(text, end):
            stop = _proper_words(document, place.end())
            if stop > place.end() and text[place.end()].isupper() == text[start].isupper():
                end = stop
        yield Span(start, end, Entity.ORGANIZATION)
    for match in _OF.finditer(text):
        words = folded[match.start(1) : match.end(1)].split()
        if (
            words
            and words[0] not in STOP
            and (text[match.start(1)].isupper() or not any(c.isupper() for c in text))
        ):
            end = _proper_words(document, match.start(1))
            if end > match.start(1):
                start = match.start() + (len(match.group()) - len(match.group().lstrip()))
                yield Span(start, end, Entity.ORGANIZATION)


_WEAK_KINDS = frozenset(["health", "imaging", "radiology", "diagnostics", "labs", "cardiology", "orthopedics", "oncology", "dermatology", "urology", "pediatrics", "rehab", "rehabilitation", "dental", "memorial", "manor", "food", "foods", "bank", "steel", "group", "partners", "associates", "works", "mill", "mills", "mine", "mines", "farm", "farms", "store", "stores", "company", "co", "systems", "solutions", "school", "institute", "church", "college", "electric", "insurance", "partners", "limited", "corp", "inc", "transit", "consulting", "dialysis", "pathology", "construction", "manufacturing", "freight", "resort", "hotel", "technologies", "brothers", "holdings", "laboratory"])  # fmt: skip
_SURE_CAPITALS = frozenset(
    [
        "insurance",
        "foods",
        "logistics",
        "imaging",
        "associates",
        "partners",
        "group",
        "inc",
        "corp",
        "manufacturing",
        "bank",
        "church",
        "construction",
        "dialysis",
        "health",
    ]
)
_SURE_LOWER = frozenset(["hospital", "medical center", "medical centre", "clinic", "nursing home", "insurance", "foods", "care home", "hospice", "urgent care", "dialysis center", "elementary school", "high school", "middle school", "police department", "fire department", "family clinic", "family practice", "cardiology group", "imaging associates", "steel works", "university", "health center", "surgery center", "imaging center", "radiology associates", "logistics", "llc", "inc", "rehabilitation center", "cancer center", "assisted living", "senior living", "medical group", "health system"])  # fmt: skip


def _left_edge(document: MatchText, start: int, end: int) -> int:
    """Leave out words before the name: ``seen at Mercy Valley``."""
    text, folded = document.text, document.folded
    position = start
    mixed = any(c.islower() for c in text[start:end])
    edge = start
    for match in re.finditer(r"\S+", folded[start:end]):
        word = match.group().strip(".,'")
        token = text[start + match.start()]
        common = word in STOP and word not in COMMON_NAMES
        if (
            (common and not (word in ("st", "new", "good", "lake", "north") and position != edge))
            or word in ("the", "at", "to", "of", "from")
            or (
                mixed
                and token.islower()
                and word not in PARTICLES
                and word not in ("&", "and", "of")
                and text[end : end + 1].isupper()
            )
        ):
            edge = start + match.end() + 1
    return min(edge, end)


def _prefixed(document: MatchText) -> Iterator[Span]:
    folded = document.folded
    for match in _PREFIXED_PT.finditer(folded):
        end = _proper_words(document, match.end(), portuguese=True)
        if end > match.end():
            yield Span(match.start(), end, Entity.ORGANIZATION)


def _proper_words(document: MatchText, position: int, *, portuguese: bool = False) -> int:
    """Where the proper name that begins here ends; ``position`` when none does."""
    text, folded = document.text, document.folded
    end, index, count = position, position, 0
    if index < len(text) and text[index] not in " \n":
        index -= 1
    lower = not any(c.isupper() for c in text[max(0, position - 30) : position + 40])
    while count < 5:
        match = _CONTINUES.match(text, index)
        if match is None:
            break
        word = folded[match.start(2) : match.end(2)].rstrip(".")
        token = match[2]
        if not token[0].isupper() and not lower and not (count and token.isdigit()):
            break
        proper = token[0].isupper() and not token.isupper() and count > 0
        ends = text[match.end(2) : match.end(2) + 1] in (".", ",", ";", "", "\n") or token.endswith(
            "."
        )
        if (
            word in STOP
            and not (proper and ends)
            and not (token[0].isupper() and word in COMMON_NAMES)
            and word
            not in ("saude", "vida", "casa", "jardim", "central", "centro", "clinicas", "new", "la")
        ):
            break
        if word in MEDICAL and count == 0:
            break
        if lower and count >= 2 and not match[1]:
            break
        if portuguese and count == 0 and token.isdigit():
            break
        end = match.end(2) - (len(token) - len(token.rstrip(".")))
        index = match.end(2)
        count += 1
        if token.endswith(".") and len(token) > 4:
            break
    return end
