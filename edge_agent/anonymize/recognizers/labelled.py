"""Structure: values behind a label, in forms, header lines, logs, JSON, XML and running text."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import COMMON_NAMES, MEDICAL, ORDINARY, STOP
from edge_agent.anonymize.recognizers.labels import LABEL, LABELS, Kind, label_key, parse_labels
from edge_agent.anonymize.recognizers.names import TOKEN, read_name
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity

# Between a label and its value; the second group says that there is a real separator.
_NUMBER_WORD = (
    r"(?:[ .]*(?:no|nr|num|number|numero|#|n[º°o]|id|code|cod|号码?|编号)(?![a-z])[.:]?)?"
)
_GAP = re.compile(
    rf"\.?{_NUMBER_WORD}(?:\([^)\n]{{0,20}}\))?[\"']? {{0,3}}(?P<sep>[:=>|\t#]|is(?= )|(?<=\w) [-–](?= ))?(?P<open>[\s]?[ \"'\[{{(<]{{0,4}})"
)
_TAB_GAP = re.compile(r" {2,40}|\s?\n(?=\S)")
_CODE = re.compile(r"[A-Za-z0-9\u4e00-\u9fff](?:[A-Za-z0-9./_+·-]*[A-Za-z0-9])?")
_GROUPS = re.compile(r"(?: \d{1,7}(?![\d/:]|[.,]\d))+")
_PLATE = re.compile(r"[A-Za-z\u4e00-\u9fff0-9]{1,4}[ ·-]?[A-Za-z0-9]{1,5}(?:[ -][A-Za-z0-9]{1,4})?")
_WORD_CODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._$\\-]*[A-Za-z0-9$]")
_FIELD = re.compile(
    r"[^\n;|\"<>\]}\t]+?(?=\s*(?:[\n;|\"<>\]}\t]|  |$| - |, ?(?:cep|zip|tel|phone|fax)|\. |,? ?[A-Za-z]+:))"
)
# The next line of a header dump is no value of a name at this line's end.
_ELEMENT = re.compile(r"[(\[][0-9a-f]{4}, ?[0-9a-f]{4}[)\]]")
_POSTCODE = re.compile(
    r"(?i)[a-z]{1,2}\d[a-z\d]? ?\d[a-z]{2}(?![a-z0-9])|[a-z]\d[a-z] ?\d[a-z]\d|\d{5}(?:-\d{3,4})?(?!\d)|\d{8}(?!\d)|\d{6}(?!\d)|\d{2}\.\d{3}-\d{3}"
)
_DATE = re.compile(r"\d{1,4}[-/. ]\d{1,2}[-/. ]\d{2,4}|\d{6,8}(?!\d)")
_PHONE = re.compile(r"[+(]?\d[\d ()./-]{4,}\d")
_SPACED = parse_labels(
    """ssn|social security number|cpf|cnpj|cns|cartao sus|nis|pis|passport|passport number|member|member
    id|subscriber|policy|policy number|carteirinha|carteira|bank|card|account|iban|nhs number|nhs
    no|nhs|银行卡号|银行卡|卡号|身份证号码|身份证号|身份证|证件号码|medicare|medicare number|mrn|medical record|medical record number|hosp|hospital number|hospital no|unit number|patient id|prontuario|pront|registro|atendimento|病案号|病历号|住院号|门诊号|登记号|检查号|health card|cartao nacional de saude|rg"""
)
# Labels that are also ordinary words: without a separator they need a long number.
_WEAK_DIGITS = 5
_SURE_DIGITS = 3
_SHORT_LABELS = parse_labels(
    """mrn|ssn|npi|dea|vin|cpf|cnpj|rg|cns|crm|coren|cro|crf|crp|crefito|crea|s/n|sn|serial|serial number|serial
    no|accession|acc|badge|license|licence|lic|carteirinha|prontuario|matricula|acct|passport|no de serie|numero de
    serie|serie|equipamento|medical record|chart|asset
    tag|patrimonio|crm-sp|crm/sp|cnh|registro|encounter|csn|fin|guia|pedido|job|ticket|ns|device serial|generator
    serial"""
)
_WEAK_NAME_LABELS = parse_labels(
    """to|from|cc|de|para|family|given|display|name|pt|md|rn|pa|np|contact|subject|att|issuer|mother|father|mae|pai|patient|paciente|driver|caller|operator|author"""
)
_NAME_WITHOUT_SEPARATOR = parse_labels(
    """vitima|agendamento|ass|patient|pt|patient name|name|signed by|electronically signed by|dictated by|transcribed by|reported by|read
    by|interpreted by|reviewed by|verified by|approved by|performed by|ordered by|requested by|referred by|seen
    by|spoke with|signed|driver|engineer|guarantor|subscriber|participant|recipient|paciente|pcte|assinado
    por|assinado eletronicamente por|laudado por|digitado por|realizado por|revisado por|liberado por|solicitado
    por|encaminhado
    por|beneficiaria|beneficiario|titular|segurado|cuidadora|cuidador|acompanhante|motorista|testemunha|engenheiro|medico|medica|enfermeira|enfermeiro|tecnico|fisioterapeuta|psicologa|nutricionista|assistente
    social|radiologista|cirurgiao|anestesista|solicitante|residente|surgeon|technologist|nurse|resident|midwife|cnm|rn|emt|crna|attn|field
     engineer|service engineer|social
    worker|interpreter|witness|caller|provider|radiologist|assistant|claimant|beneficiary|insured|client|employee"""
)
_STATE = re.compile(r"(?:[^m]ed|ly|ing|ous|ese|ic|ive|able|ent|ant|al)$")
# Above a list of persons and above a paragraph alike.
_ALSO_HEADINGS = parse_labels("anesthesia|anaesthesia|cirurgia")
_PLAIN_WORDS = (MEDICAL | ORDINARY | STOP) - COMMON_NAMES
# What stands behind these is a person in lower case too.
_BY = parse_labels(
    """signed by|electronically signed by|dictated by|transcribed by|reported by|read by|interpreted by|verified by|
    performed by|requested by|referred by|attn|realizado por|assinado por|assinado eletronicamente por|laudado por|digitado por|
    revisado por|liberado por|solicitado por|encaminhado por|conferido por|ass|driver|vitima"""
)
_HAN = re.compile(r"[\u4e00-\u9fff]")


def find_labelled(document: MatchText) -> Iterator[Span]:
    """Every value whose label says what it is."""
    for match in LABEL.finditer(document.folded):
        key = label_key(match.group())
        kind = LABELS.get(key)
        if kind is None or kind is Kind.KEPT:
            continue
        gap = _GAP.match(document.folded, match.end())
        assert gap is not None
        start, separated = gap.end(), gap["sep"] is not None or '"' in gap["open"]
        if (
            not separated
            and (wide := _TAB_GAP.match(document.folded, match.end()))
            and _starts_line(document, match.start())
        ):
            start, separated = wide.end(), "\n" not in wide.group()
        if start < len(document.text) and not _ELEMENT.match(document.folded, start - 1):
            yield from _value(document, kind, key, start, separated)


def _value(
    document: MatchText, kind: Kind, key: str, start: int, separated: bool
) -> Iterator[Span]:
    text = document.text
    han = _HAN.match(key) is not None
    match kind:
        case Kind.NAME | Kind.STAFF:
            yield from _name(document, kind, key, start, separated)
        case Kind.NUMBER:
            yield from _number(document, key, start, separated or han)
        case Kind.CODE:
            value = _WORD_CODE.match(text, start)
            if value and (
                separated
                or (
                    any(c.isdigit() for c in value.group())
                    and key
                    in (
                        "ae",
                        "aetitle",
                        "aet",
                        "station",
                        "stationname",
                        "workstation",
                        "user",
                        "userid",
                        "login",
                    )
                )
                or "_" in value.group()
            ):
                if value.group().lower() not in STOP or separated:
                    yield Span(start, value.end(), Entity.ID, Step.STRUCTURE)
            elif (
                value
                and key in ("user", "username", "usuario", "login", "loggedinas")
                and document.folded.startswith(
                    (" logged", " login", " opened", " action", " signed", " saiu", " entrou"),
                    value.end(),
                )
                and value.group().lower() not in STOP
            ):
                yield Span(start, value.end(), Entity.ID, Step.STRUCTURE)
        case Kind.PLATE:
            value = _PLATE.match(text, start)
            digits = sum(c.isdigit() for c in value.group()) if value else 0
            if value and (digits > 2 if key.startswith(("vehicle", "car")) else digits):
                yield Span(start, value.end(), Entity.ID, Step.STRUCTURE)
        case Kind.DATE:
            value = _DATE.match(text, start)
            if value:
                yield Span(start, value.end(), Entity.DATE, Step.STRUCTURE)
        case Kind.PHONE:
            value = _PHONE.match(text, start)
            if value:
                yield Span(start, value.end(), Entity.PHONE, Step.STRUCTURE)
        case Kind.POSTCODE:
            value = _POSTCODE.match(text, start)
            if value:
                yield Span(start, value.end(), Entity.LOCATION, Step.STRUCTURE)
        case Kind.HOST:
            value = _WORD_CODE.match(text, start)
            if (
                value
                and separated
                and any(c.isdigit() or c in "._-" for c in value.group())
                and not value.group().replace(".", "").isdigit()
            ):
                yield Span(start, value.end(), Entity.URL, Step.STRUCTURE)
        case Kind.STREET | Kind.TOWN | Kind.ORGANIZATION:
            if separated:
                yield from _field(document, kind, start)


def _name(document: MatchText, kind: Kind, key: str, start: int, separated: bool) -> Iterator[Span]:
    text = document.text
    titled = re.compile(
        r"(?:(?:dr|dra|mr|mrs|ms|sr|sra|prof|doctor|doutor|doutora)\b(?:\(a\))?\.? ?){1,2}"
    ).match(document.folded, start)
    position = titled.end() if titled and titled.end() < len(text) else start
    lower_text = text[position : position + 1].islower()
    if not separated and lower_text and key in _BY:
        end = read_name(document, position, strict=False, max_tokens=4)
    elif separated:
        end = read_name(document, position, strict=not lower_text, wraps=True)
        if lower_text and key in _WEAK_NAME_LABELS and end > position:
            # "to: be seen" and "patient: stable" are running text; a name fills its field.
            rest = text[end : end + 1]
            if rest not in ("", "\n", ",", ";", "|", '"', "(", "/", "<", " ") or (
                rest == " " and not text.startswith("  ", end)
            ):
                end = read_name(document, position, strict=False, max_tokens=3)
    elif kind is Kind.STAFF or key in _NAME_WITHOUT_SEPARATOR:
        first = TOKEN.match(text, position)
        if (
            first is None
            or not first.group()[0].isupper()
            or (
                first.group().isupper()
                and len(first.group()) > 3
                and "^" not in first.group()
                and not text.startswith(", ", first.end())
            )
        ):
            return
        end = read_name(document, position, strict=True, wraps=True)
        if document.folded[position:end].rstrip(".") in COMMON_NAMES and not titled:
            return
    else:
        return
    if (
        lower_text
        and document.folded.endswith("is ", 0, start)
        and _STATE.search(document.folded, position, end)
    ):
        return  # "the patient is slightly rotated"
    if key in _ALSO_HEADINGS and all(
        word in _PLAIN_WORDS for word in document.folded[position:end].replace(",", "").split()
    ):
        return  # "Anesthesia: general"
    if end > position and any(c.isalpha() for c in text[position:end]):
        yield Span(position, end, Entity.PERSON, Step.STRUCTURE)


def _number(document: MatchText, key: str, start: int, separated: bool) -> Iterator[Span]:
    text = document.text
    value = _CODE.match(text, start)
    if value is None:
        return
    end = value.end()
    if _HAN.search(value.group()):
        ascii_value = re.compile(r"[A-Za-z0-9][A-Za-z0-9./_+-]*").match(text, start)
        if ascii_value is None:
            return
        end = ascii_value.end()
    raw = text[start:end]
    digits = sum(c.isdigit() for c in raw)
    if (
        (digits or (raw.isupper() and len(raw) <= 4))
        and (key in _SPACED or digits >= 3)
        and (more := _GROUPS.match(text, end))
        and key in _SPACED
    ):
        end = more.end()
        digits += sum(c.isdigit() for c in more.group())
    needed = _SURE_DIGITS if separated else 4 if key in _SHORT_LABELS else _WEAK_DIGITS
    if (
        key
        in (
            "id",
            "identifier",
            "codigo",
            "编号",
            "subject",
            "device",
            "report",
            "study",
            "estudo",
            "exame",
            "laudo",
            "order",
            "case",
            "tag",
            "record",
        )
        and not separated
    ):
        needed = 6 if key == "id" else _WEAK_DIGITS
    if (
        raw.startswith("1.2.840.10008.")
        or digits < needed
        or (digits < 7 and follows_unit(document.folded, end))
    ):
        return
    if not separated and re.fullmatch(
        r"(?:19|20)\d\d|\d{1,2}[/.]\d{1,2}(?:[/.]\d{2,4})?|\d{5}-\d{4}", raw
    ):
        return
    if re.fullmatch(r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}", raw):
        return  # a date; its own recognizer knows better
    yield Span(start, end, Entity.ID, Step.STRUCTURE)


def _field(document: MatchText, kind: Kind, start: int) -> Iterator[Span]:
    text = document.text
    value = _FIELD.match(text, start)
    if value is None:
        return
    end = value.end()
    while end > start and text[end - 1] in " .,'":
        end -= 1
    words = document.folded[start:end].split()
    if not words or len(words) > 16 or (len(words) > 8 and kind is not Kind.STREET):
        return
    if all(word.strip(",.") in STOP for word in words) or not any(
        c.isalpha() for c in text[start:end]
    ):
        return
    entity = Entity.ORGANIZATION if kind is Kind.ORGANIZATION else Entity.LOCATION
    if kind is Kind.STREET:
        yield Span(start, end, entity, Step.STRUCTURE)
        return
    if (
        not _HAN.search(text[start:end])
        and text[start].islower()
        and not _alone_in_field(text, start, end)
    ):
        return
    comma = text.find(",", start, end)
    yield Span(start, comma if kind is Kind.TOWN and comma > 0 else end, entity, Step.STRUCTURE)


def _alone_in_field(text: str, start: int, end: int) -> bool:
    return end >= len(text) or text[end] in '\n";|' or text.startswith("  ", end)


def _starts_line(document: MatchText, position: int) -> bool:
    return position == 0 or document.text[position - 1] == "\n"
