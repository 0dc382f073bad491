"""Veto: drops or trims what ONLY a statistical model found and what medicine needs. It never touches the other steps."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import (
    CAPITAL_INSIDE,
    COMMON_NAMES,
    CREDENTIALS,
    KEPT_PLACES,
    MEDICAL,
    ORDINARY,
    PARTICLES,
    STOP,
    TERM_ENDING,
    TITLES,
    read_words,
)
from edge_agent.anonymize.machine_text import machine_text
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.span import Span, Step
from edge_agent.flow import Entity

_WORD = re.compile(r"[^\W_]+(?:['.-][^\W_]+)*\.?")
_MEDICAL_AFTER = re.compile(
    r"(?:'?s)? (?:disease|syndrome|signs?|tests?|fracture|lymphoma|thyroiditis|catheter|drain|lesion|deformity|cyst|hernia|procedure|score|scale|class(?:ification)?|criteria|palsy|phenomenon|reflex|tumou?r|line|tube|wire|clamp|stain|lactate|solution|position|sarcoma|node|diverticulum|point|pouch|maneuver|sequence|"
    r"maneuvre|manoeuvre|papules?|spots?|pearls?|bodies|rods?|spindle|evacuator|trocar|dilator|forceps|scissors|retractor|needle|screws?|miniplates?|arch bars?|collar|bandage|boot|frame|gait|grading|staging|index|view|angle|triangle|ring|membrane|anomaly|malformation|dystrophy|atrophy|neuropathy|arthritis|dementia|carcinoma|melanoma|adenoma|repair|approach|technique|method|protocol|chart|biplane|formula|equation|equivocal|positive|negative|absent|present|dysfunction|ulcer|esophagus|anemia|contracture|nerve|ganglion|muscle|ligament|tendon|artery|vein|duct|gland|fundoplication|anastomosis|incision|suture|units?|mg|ml|tablets?)(?![a-z])"
)
_MEDICAL_BEFORE = re.compile(
    r"(?:doenca|sindrome|sinal|teste|fratura|linfoma|cateter|sonda|dreno|cisto|tumor|escala|classificacao|manobra|reflexo|soro|fio|tireoidite|mal|escore|indice|metodo|tecnica|cirurgia|criterios?) (?:de |do |da )$|综合征|征$|病$"
)
_GRADE_AFTER = re.compile(
    r" (?:i{1,3}v?|iv|vi?|\d{1,2})(?![a-z0-9.:/-])(?! (?:y/?o|years?|anos|yo))"
)
_CATALOGUE = re.compile(
    r"(?:lot|lote|batch|ref|cat|catalog|model|modelo|version|software|firmware|build)(?: no)?[ .:#]{0,3}$"
)
_MAX_ABBREVIATION = 4
_REACH = 60  # characters before a span that tell how its writer uses capitals
# Endings of terms and participles that few names share; asked only of a lone word at the start of a sentence.
_ENDING = re.compile(
    r"(?:osis|itis|emia|aemia|oma|omas|pathy|plasty|ectomy|otomy|ostomy|graphy|gram|scopy|logy|scopic|genic|lytic|tomy|algia|uria|rrhea|plegia|trophy|ular|onal|ural|inal|inum|eural|ior|ically|ally|wise|ures|ures|sions?|tions?|ments?|ness|ities|ity|ated|ized|ised|ating|izing|eous|ious|"
    r"acoes|acao|mente|idade|ico|ica|grafia|patia|ose|ite|iase)$"
)
_FUNCTION_WORDS = read_words("function_words")
_PLACE_WORDS = read_words("place_words")
_CHINESE_TERMS = read_words("chinese_terms")
_DEPARTMENT = re.compile(r"[\u4e00-\u9fff]{1,6}(?:科|室|中心|部|组|病区)$")


def veto(found: Sequence[Sequence[Span]], document: MatchText) -> Iterator[Span]:
    """What survives of the models' spans, trimmed.

    Args:
        found: The spans of each model; what two of them call a person, place or organisation is doubted less.
        document: The text.
    """
    machine = machine_text(document)
    for index, spans in enumerate(found):
        others = [span for other, more in enumerate(found) if other != index for span in more]
        for span in spans:
            if span.step is not Step.NER:
                yield span
                continue
            trimmed = _trimmed(span, document)
            if trimmed is None or _is_medical(trimmed, document):
                continue
            if any(trimmed.start < end and trimmed.end > start for start, end in machine):
                continue
            agreed = any(span.overlaps(other) and other.entity is span.entity for other in others)
            if agreed or not _is_plain(trimmed, document):
                yield trimmed


def _is_plain(span: Span, document: MatchText) -> bool:
    """Whether the letters' case or an ending says that these are ordinary words."""
    if span.entity not in (Entity.PERSON, Entity.LOCATION, Entity.ORGANIZATION):
        return False
    value = document.text[span.start : span.end]
    letters = [c for c in value if c.isalpha()]
    if not any(c.isascii() for c in letters):
        return False
    if (
        document.text[span.end : span.end + 1].isalnum()
        or document.text[span.end : span.end + 1] == "="
    ):
        return True  # a part of a token, or a key
    around = _line_without_speaker(document.text, span.start)
    mixed = any(c.isupper() for c in around) and any(c.islower() for c in around)
    words = [w for w in re.split(r"[\s,-]+", value) if any(c.isalpha() for c in w)]
    before = around[max(0, around.find(value) - _REACH) : max(0, around.find(value))]
    if mixed and not any(c.isupper() for c in value) and CAPITAL_INSIDE.search(before):
        return True  # small letters where names have capitals
    if mixed and value.isupper() and len(letters) <= _MAX_ABBREVIATION and "." not in value:
        return True
    if span.entity is Entity.ORGANIZATION and (
        len(words) < 2
        or any(w.isupper() and len(w) < 6 for w in words)
        or any(c.isdigit() for c in value)
    ):
        return True
    capitals = [w for w in words if w[0].isupper()]
    if (
        mixed
        and len(capitals) == 1
        and len(words) <= 2
        and _starts_sentence(document.text, span.start)
    ):
        word = capitals[0].lower().strip(".'")
        return (len(words) == 2 and words[1].islower()) or _ENDING.search(word) is not None
    return False


def _line_without_speaker(text: str, position: int) -> str:
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    line = text[start : end if end >= 0 else len(text)]
    speaker = re.match(r"[^:\n]{1,30}: ", line)
    return line[speaker.end() :] if speaker and start + speaker.end() <= position else line


def _starts_sentence(text: str, position: int) -> bool:
    before = text[:position].rstrip(" ")
    return not before or before[-1] in ".:;\n!?)"


def _trimmed(span: Span, document: MatchText) -> Span | None:
    """Without titles, function words and credentials at its ends."""
    folded, text = document.folded, document.text
    words = list(_WORD.finditer(folded, span.start, span.end))
    capitals = any(c.isupper() for c in text[span.start : span.end])
    while words and _is_edge(
        words[0].group(), text[words[0].start()], span.entity, first=True, has_capitals=capitals
    ):
        words.pop(0)
    while words and _is_edge(
        words[-1].group(), text[words[-1].start()], span.entity, first=False, has_capitals=capitals
    ):
        words.pop()
    if not words:
        return None
    start, end = words[0].start(), words[-1].end()
    if (
        span.entity is not Entity.PERSON
        and text[start - 1 : start] == "("
        and ")" in text[start : span.end]
    ):
        start -= 1
    last = words[-1].group()
    if last.endswith(".") and not (len(last) == 2 or last in ("jr.", "sr.", "inc.", "st.")):
        end -= 1
    if folded.startswith("'s", end - 2) and end - start > 3 and span.entity is Entity.PERSON:
        end -= 2
    return Span(start, end, span.entity, span.step)


def _is_edge(
    word: str, first_letter: str, entity: Entity, *, first: bool, has_capitals: bool
) -> bool:
    bare = word.strip(".")
    if entity in (Entity.ID, Entity.PHONE, Entity.DATE, Entity.AGE):
        return not any(c.isdigit() for c in bare) and entity is not Entity.DATE
    if entity is Entity.PERSON:
        if bare in COMMON_NAMES:
            return False
        if bare.isdigit() or (bare in STOP and len(bare) > 1):
            return True
        if bare in ORDINARY and first_letter.islower() and has_capitals:
            return True
        if first:  # a particle there is part of the name: the model has seen "exame de Souza" and "de Souza chegou"
            return bare in TITLES and len(bare) > 1
        return bare in CREDENTIALS or bare in PARTICLES
    if has_capitals and first_letter.isupper() and bare not in _FUNCTION_WORDS:
        return False  # São José dos Campos, Feira de Santana
    return (
        (bare in STOP or bare in PARTICLES or bare in MEDICAL)
        and bare not in COMMON_NAMES
        and bare not in _PLACE_WORDS
    )


def _is_medical(span: Span, document: MatchText) -> bool:
    folded, text = document.folded, document.text
    value = folded[span.start : span.end]
    words = [word.strip(".'") for word in re.findall(r"[^\s,;/()-]+", value)]
    if span.entity in (Entity.PERSON, Entity.LOCATION, Entity.ORGANIZATION):
        letters = sum(c.isalpha() for c in value)
        if set(value) <= set("x*_# ,."):
            return True  # blotted out already
        if re.fullmatch(r"[\d.,/ -]+ ?[a-z%]{1,6}\.?", value):
            return True
        if letters < 2:
            return True
        if (
            value in _CHINESE_TERMS
            or value.removesuffix("氏") in _CHINESE_TERMS
            or text.startswith(("征", "病", "氏", "综合征", "评分", "试验", "分级"), span.end)
        ):
            return True
        if span.entity is Entity.ORGANIZATION and _DEPARTMENT.fullmatch(value):
            return True
        if any(c.isdigit() for c in value) and span.entity is Entity.PERSON:
            return True
        if value == text[span.start : span.end] and all(TERM_ENDING.search(word) for word in words):
            return True  # noncalcified, age-indeterminate: nobody's name, and in small letters
        if len(words) == 1 and words[0].endswith(("ously", "edly", "ally", "mente")):
            return True  # Heterogeneously dense
        if _MEDICAL_AFTER.match(folded, span.end) and not text[span.start : span.end].count(" "):
            return True
        if (
            len(words) == 1
            and words[0] not in COMMON_NAMES
            and _GRADE_AFTER.match(folded, span.end)
        ):
            return True  # Baker II, Rotter I, Schirmer 3
        if len(words) == 2 and re.fullmatch(r"i{1,3}v?|iv|v", words[1]):
            return True  # the model took the grade in
        if _MEDICAL_BEFORE.search(folded, max(0, span.start - 24), span.start):
            return True
        if span.entity is Entity.LOCATION and (
            all(w in KEPT_PLACES for w in words) or len(value) == 2
        ):
            return True
        # Skilled Nursing, Juiz de Fora: ordinary words with capitals may name a place or a house.
        named = (
            span.entity is not Entity.PERSON
            and "[" not in text[max(0, span.start - 1) : span.start + 1]
            and sum(c.isupper() for c in text[span.start : span.end]) > 1
        )
        known = [
            w
            for w in words
            if w in MEDICAL
            or (w in ORDINARY and w not in COMMON_NAMES and not named)
            or (w in STOP and w not in COMMON_NAMES)
            or w.removesuffix("'s") in MEDICAL
        ]
        if len(known) == len(words):
            return True
        if (
            span.entity is Entity.PERSON
            and len(words) == 1
            and words[0] in COMMON_NAMES
            and not text[span.start].isupper()
        ):
            # "may", "brown", "hill" in lower case are words unless everything is
            return any(c.isupper() for c in text)
        return False
    if span.entity in (Entity.ID, Entity.PHONE, Entity.AGE):
        digits = sum(c.isdigit() for c in value)
        if span.entity is Entity.AGE:
            return not (digits in (2, 3) and value.strip().isdigit() and 90 <= int(value) <= 130)
        if _CATALOGUE.search(folded, max(0, span.start - 24), span.start):
            return True
        return (
            digits < 4
            or follows_unit(folded, span.end)
            or value.startswith("1.2.840.10008")
            or (digits < 5 and "/" in value)
        )
    return (
        not any(c.isdigit() for c in value)
        or bool(follows_unit(folded, span.end))
        or not _date_like(value, folded, span)
    )


def _date_like(value: str, folded: str, span: Span) -> bool:
    """A pair of small numbers that the model takes for a date; ratios and scores are its usual error."""
    if value.count(".") > 2 or value.startswith("1.2.840"):
        return False
    if re.fullmatch(r"\d{1,2}-\d{1,2}|\d{1,3}/\d{3}", value.strip()):
        return False
    numbers = [int(part) for part in re.findall(r"\d{1,2}(?=/|$)", value)]
    if re.fullmatch(r"\d\d?/\d\d?/\d\d", value.strip()) and not (
        min(numbers[:2]) <= 12 and max(numbers[:2]) <= 31
    ):
        return False  # a blood gas
    pair = re.fullmatch(r"(\d{1,2})/(\d{1,2})", value.strip())
    if pair is None:
        return (
            bool(re.search(r"[a-z]{3}|\d[-/.]\d", value))
            and re.fullmatch(r"(?:1[89]|20)\d\d", value.strip()) is None
        )
    first, second = int(pair[1]), int(pair[2])
    if not (1 <= first <= 31 and 1 <= second <= 31) or (first > 12 and second > 12):
        return False
    before = folded[max(0, span.start - 30) : span.start]
    return not re.search(
        r"(?:strength|pain|power|score|scale|grade|murmur|vision|apgar|dor|forca|glasgow|mmse|meem|sopro|\d+ |reflex|flexion|extension|pulse|[ctls]\d?)[\w :=]{0,12}$",
        before,
    ) and not re.match(
        r" ?(?:tablet|tab|comprimido|week|semana|murmur|throughout|strength|in |of |bilateral)",
        folded[span.end :],
    )
