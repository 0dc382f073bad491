"""LOCATION: streets, PO boxes, postcodes, towns before a state, quarters, Chinese addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.lexicon import COMMON_NAMES, KEPT_PLACES, MEDICAL, PARTICLES, STOP
from edge_agent.anonymize.recognizers.quantities import follows_unit
from edge_agent.anonymize.recognizers.trie import trie
from edge_agent.anonymize.span import Span
from edge_agent.flow import Entity

_SUFFIX = (
    "street|st|avenue|ave|av|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|way|parkway|pkwy|terrace|ter|circle|cir|highway|hwy|square|sq|trail|trl|loop|row|crescent|cres|close|gardens|walk|plaza|"
    "alley|turnpike|expressway|path|crossing|mews|run|ridge|grove|green|hill|rise|quay|wharf|point|pointe|view|heights|hollow|bend|cove|landing|park|broadway|esplanade|embankment|freeway|bypass|steps"
)
_UNIT = r"(?:,? ?(?:apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|bldg|building|lot|#|no\.?|p\.?o\.? ?box)\.? ?#?[a-z]?-?\d{1,5}[a-z]?(?![a-z0-9])|,? ?(?:apt|apartment|suite|ste|unit|flat|bldg|building)\.? ?#?[a-z](?![a-z0-9])| ?# ?\d{1,5}[a-z]?)*"
_STREET = re.compile(
    rf"(?<![a-z0-9.,/-])(\d{{1,6}}[a-z]?(?:-\d{{1,4}})?(?: 1/2)?) ((?:[nsew]{{1,2}}\.? )?(?:(?:[a-z][\w'.-]*|\d{{1,3}}(?:st|nd|rd|th)?)[\n ]){{1,4}}?)(?P<suffix>{_SUFFIX})(?![a-z])\.?(?: (?:north|south|east|west|n|s|e|w|ne|nw|se|sw)\b\.?)?{_UNIT}"
)
_NUMBERED = re.compile(
    rf"(?<![a-z0-9])\d{{1,6}} (?:north |south |east |west |[nsew]\.? )?(?:broadway|(?:u\.?s\.?|state|county|old)? ?(?:route|highway|hwy|rte|road) \d{{1,4}}|(?:\d{{1,3}}(?:st|nd|rd|th)) (?:{_SUFFIX}))(?![a-z]){_UNIT}"
)
_BOX = re.compile(
    r"(?<![a-z])(?:p\.? ?o\.? ?box|post office box|caixa postal|apartado|locked bag|private bag|邮政信箱)[ #:]*(?:no\.? ?)?\d{1,7}"
)
_BOX_TOWN = re.compile(r", ?[A-ZÀ-Þ][a-zà-ÿ]{2,}(?: [A-ZÀ-Þ][a-zà-ÿ]{2,})?")
_STATES = (
    "alabama|alaska|arizona|arkansas|california|colorado|connecticut|delaware|florida|georgia|hawaii|idaho|illinois|indiana|iowa|kansas|kentucky|louisiana|maine|maryland|massachusetts|michigan|minnesota|mississippi|missouri|montana|"
    "nebraska|nevada|new hampshire|new jersey|new mexico|new york|north carolina|north dakota|ohio|oklahoma|oregon|pennsylvania|rhode island|south carolina|south dakota|tennessee|texas|utah|vermont|virginia|washington|west virginia|wisconsin|wyoming"
)
_ABBREVIATIONS = "AL|AK|AZ|AR|CA|CO|CT|DE|FL|GA|HI|ID|IL|IN|IA|KS|KY|LA|ME|MD|MA|MI|MN|MS|MO|MT|NE|NV|NH|NJ|NM|NY|NC|ND|OH|OK|OR|PA|RI|SC|SD|TN|TX|UT|VT|VA|WA|WV|WI|WY|DC|PR|ON|QC|BC|AB|MB|SK|NS|NB|NL"
_UF = "AC|AL|AP|AM|BA|CE|DF|ES|GO|MA|MT|MS|MG|PA|PB|PR|PE|PI|RJ|RN|RS|RO|RR|SC|SP|SE|TO"
_ZIP = re.compile(
    rf"(?<![a-z0-9.,/-])\d{{5}}-\d{{4}}(?![a-z0-9_-]|[.,]\d)|(?<![a-z])(?:{_ABBREVIATIONS.lower()}|{_STATES})[,. ]+(\d{{5}}(?:-\d{{4}})?)(?![a-z0-9_-]|[.,]\d)"
)
_TOWN_AND_ZIP = re.compile(r", (?:[A-Z][\w.'-]+ ){1,3}(\d{5}(?:-\d{4})?)(?=[\n,;.)]|$)(?![.,]\d)")
_PLACE_AND_DATE = re.compile(
    r"(?:^|(?<=\n))((?:[A-ZÀ-Þ][a-zà-ÿ'-]+ (?:d[aeo]s? )?){0,3}[A-ZÀ-Þ][a-zà-ÿ'-]+)(?:[/-][A-Z]{2})?, (?=\d{1,2}(?:[-/.]\d|º? de [a-zç]|/[a-z]{3}/)|\d{4}-\d\d-\d\d)"
)
_CEP = re.compile(r"(?<![a-z0-9_./-])\d{2}\.?\d{3}-\d{3}(?![a-z0-9_-]|[.,]\d)")
_FOREIGN = re.compile(
    r"(?<![A-Za-z0-9])(?:[A-Z]{1,2}\d[A-Z\d]? \d[ABD-HJLNP-UW-Z]{2}|[ABCEGHJ-NPRSTVXY]\d[A-Z] ?\d[A-Z]\d)(?![A-Za-z0-9])"
)
_WORD = r"[A-ZÀ-Þ][\w'.À-ÿ-]*"
_STATE = re.compile(
    rf"(?:(?<=, )|(?<= ))(?:(?:{trie(_ABBREVIATIONS.split('|'))})(?![A-Za-z0-9_-])|(?i:{trie(_STATES.split('|'))})(?![A-Za-z]))"
)
_STATE_LOWER = re.compile(rf"(?<=, )(?:{trie(_ABBREVIATIONS.lower().split('|'))})(?=[ ,.;]|$)")
_TOWN_BEFORE = re.compile(rf"(?:{_WORD} ){{0,3}}{_WORD}(?=,? $)")
_TOWN_BEFORE_LOWER = re.compile(r"(?:(?<=[ ,])[a-z'.-]{3,} )?(?<=[ ,])[a-z'.-]{3,}(?=, $)")
_REACH = 48  # characters before a state in which its town may begin
_TOWN_BEFORE_CODE = re.compile(
    r"((?:[A-ZÀ-Þ][a-zà-ÿ'-]+[ -]){0,2}[A-ZÀ-Þ][a-zà-ÿ'-]+),? (?:[A-Z]{2} )?$"
)
_STREET_BEFORE = re.compile(
    r"(?:^|[,:;\n(>\"-] ?|(?:^|[^a-z])(?:na|da|a|em|end|endereco|no|reside|mora|sito)[.:]? )$"
)
_QUARTERS = frozenset(
    ("centro", "jardim", "vila", "casa", "boa", "alta", "parque", "grande", "area")
)
_QUARTER_BEFORE = re.compile(rf", ((?:{_WORD} (?:d[aeo]s? )?){{0,3}}{_WORD})(?:, ?| ?- ?)$")
_PAIR_PT = re.compile(
    rf"(?<![A-Za-z])(?:[Ee]m|[Nn][oa]) ((?:{_WORD} (?:d[aeo]s? )?){{0,2}}{_WORD}), ((?:{_WORD} (?:d[aeo]s? )?){{0,2}}{_WORD})(?=[.;\n]|$)"
)
_UF_AFTER = re.compile(rf"(?: ?/ ?| - | ?– ?|-|, | \()(?:{_UF})(?![A-Za-z0-9_-])")
_TOWN_BEFORE_UF = re.compile(rf"(?:{_WORD} (?:(?:[Dd][AEOaeo][Ss]?|e) )?){{0,3}}{_WORD}$")
_STREET_PT = re.compile(
    r"(?<![a-z])(?:rua|r\.|avenida|av\.?|travessa|tv\.|trav\.|alameda|al\.|praca|pca\.?|rodovia|rod\.|estrada|estr\.|largo|beco|viela|ladeira|passagem|conjunto|conj\.|quadra|qd\.?|via|servidao|condominio|residencial)"
    r"[ \n](?=[a-z0-9])((?:[a-z0-9'ºª.-]+(?:[ \n](?!n[ºo°.]|numero|num|apto|bloco|casa|cep|bairro|em |no |na |cidade|tel)|(?=[,;)\n]|$| )))"
    r"{1,7})(?:,? ?(?:n[ºo°.]{1,2}|numero|num\.?|n)? ?\d{1,5}[a-z]?(?![\d/-]))?(?:,? ?(?:apto?\.?|apartamento|ap\.?|bloco|bl\.?|casa|sala|fundos|conjunto|conj\.?|andar|lote|quadra|torre|km)\.? ?[a-z0-9-]{0,6})*"
)
_QUARTER = re.compile(r"(?<![a-z])bairro:? (?:d[aeo]s? )?")
_FIELD_END = re.compile(r"[,.;\n/)(-]|$")
_RESIDENCE = re.compile(
    r"(?<![a-z])(?:lives? (?:alone )?in|living in|resid(?:es?|ing|ent) (?:of|in)|moved (?:to|from)|comes? from|came from|originally from|native of|born in|grew up in|travel(?:l?ed|l?ing)? (?:to|from)|drove from|flew (?:to|from)|visiting|visit(?:ed)? (?:to|family in)|vacation(?:ing)? in|works in|hit [a-z ]{3,20} in|hometown(?: of)?|city of|town of|"
    r"morador[a]? d[aeo]|mora(?:ndo|va)? em|reside(?:nte)? em|natural d[aeo]|procedente d[aeo]|proveniente d[aeo]|vindo d[aeo]|veio d[aeo]|nascid[oa] em|vive(?:ndo)? em|domiciliad[oa] em|viajou para|viagem para|mudou(?:-se)? para|cidade de|municipio de|comarca de|interior de|exame feito em|realizad[oa] em|atendid[oa] em)[ \n]"
)
_ZIP_AFTER = re.compile(r",? \d{5}(?!\d)")
_AFTER_LOWER_STATE = re.compile(r",? \d{5}(?!\d)|[.;\n]|$|,? (?:usa|with|for|and|on)(?![a-z])")
_COUNCILS = (
    "crm",
    "coren",
    "cro",
    "crp",
    "crf",
    "crefito",
    "oab",
    "detran",
    "ssp",
    "rg",
    "cress",
    "crea",
)
_HAN = r"\u4e00-\u9fff"
_CN_HEAD = rf"[{_HAN}]"
_ADDRESS_CN = re.compile(
    rf"(?:{_CN_HEAD}{{2,6}}?(?:省|自治区|特别行政区))?(?:{_CN_HEAD}{{2,6}}?(?:市|自治州|地区|盟))?(?:{_CN_HEAD}{{1,6}}?(?:区|县|旗|市))?(?:{_CN_HEAD}{{1,8}}?(?:街道|镇|乡|开发区|新区|园区))?(?:{_CN_HEAD}{{1,8}}?(?:村|社区|屯|组))?"
    rf"(?:{_CN_HEAD}{{1,10}}?(?:路|街|大街|大道|巷|胡同|弄|里|道|条|段|公路|环路))?(?: ?(?:[0-9A-Za-z一二三四五六七八九十-]{{1,6}}) ?(?:号院|号楼|号|弄|巷|幢|栋|座|单元|楼|层|室|户|房|组|队))+"
    rf"(?:{_CN_HEAD}{{2,12}}?(?:小区|花园|公寓|大厦|广场|苑|城|家园|新村|宿舍|庄园|府|中心))?(?:(?:[0-9A-Za-z一二三四五六七八九十-]{{1,6}}) ?(?:号楼|号|幢|栋|座|单元|楼|层|室|户|房))*"
)
_CN_CITY = re.compile(
    rf"(?:[{_HAN}]{{2,3}}省|[{_HAN}]{{2,5}}自治区)?([{_HAN}]{{2,4}}市(?:[{_HAN}]{{1,4}}(?:区|县|市))?(?:[{_HAN}]{{1,5}}(?:街道|镇|乡))?(?:[{_HAN}]{{1,5}}村)?)"
)
_CN_POST = re.compile(r"(?:邮编|邮政编码|邮政编号)(?:是|为)?[ ::]{0,2}(\d{6})(?!\d)")
_CN_LEAD = re.compile(
    r"^(?:患者|病人|家属)?(?:现)?(?:长期|常年|一直)?(?:家住|居住|现住|居住于|居住在|住址|住在|住|位于|来自|地址|户籍|籍贯|寄往|寄到|寄至|送往|送到|发往|前往|转往|到|在|于|至|从|由|系|去|往|回|赴|是|为|我爸|我妈|我|爸|妈|他|她|的|老家|家在|家)+"
)


def find_streets(document: MatchText) -> Iterator[Span]:
    """Streets with a number, boxes, in English and Portuguese."""
    folded, text = document.flat, document.text
    for match in _STREET.finditer(folded):
        words = [word.strip(".,'") for word in match[2].split()]
        if follows_unit(folded, match.end(1)):
            continue
        if match["suffix"] == "steps" and not text[match.start("suffix")].isupper():
            continue  # somebody walked them
        if any(
            word in STOP or word in MEDICAL
            for word in words
            if not _capitalised(text, folded, word, match.start(2), match.end(2))
        ):
            continue
        if all(word in STOP for word in words) or (
            match.group().endswith((" dr", " dr."))
            and folded.startswith((" ", "."))
            and _name_follows(text, match.end())
        ):
            continue
        yield Span(match.start(), match.start() + len(match.group().rstrip(" .,")), Entity.LOCATION)
    for match in _NUMBERED.finditer(folded):
        yield Span(match.start(), match.end(), Entity.LOCATION)
    for match in _BOX.finditer(folded):
        town = _BOX_TOWN.match(text, match.end())
        yield Span(match.start(), town.end() if town else match.end(), Entity.LOCATION)
    for match in _STREET_PT.finditer(folded):
        if match.group().startswith("r.") and not _STREET_BEFORE.search(
            folded, max(0, match.start() - 12), match.start()
        ):
            continue  # the initial of a name
        inner = [w for w in re.finditer(r"\S+", match[1]) if w.group().strip(".,") not in PARTICLES]
        if not inner:
            continue
        first = inner[0].group().strip(".,")
        proper = text[match.start(1) + inner[0].start()].isupper() or first[0].isdigit()
        if (first in STOP and not proper) or (
            not proper
            and not folded.startswith(
                ("rua", "avenida", "av", "travessa", "alameda", "rodovia"), match.start()
            )
        ):
            continue
        if (
            match.group().startswith(
                ("via ", "conjunto ", "quadra ", "largo ", "passagem ", "residencial ", "praca ")
            )
            and not proper
        ):
            continue
        if match.group().startswith("via ") and (
            text[match.start()] == "v" or not any(c.isdigit() for c in match.group())
        ):
            continue  # "60 mL/h via Dobhoff"
        yield Span(
            match.start(), match.start() + len(match.group().rstrip(" .,-\n")), Entity.LOCATION
        )


def find_residences(document: MatchText) -> Iterator[Span]:
    """Towns after words of living, moving and being born."""
    text, folded = document.text, document.flat
    for match in _RESIDENCE.finditer(folded):
        position, end, count = match.end(), match.end(), 0
        capital = text[position : position + 1].isupper()
        while count < 4 and (word := re.compile(r"[^\W\d_][\w'.-]*").match(text, position)):
            value = folded[word.start() : word.end()].rstrip(".")
            particle = value in ("de", "do", "da", "dos", "das", "del", "la", "of")
            if particle and count == 0:
                break
            if (
                (value in STOP or value in MEDICAL)
                and not (capital and value in COMMON_NAMES)
                and not particle
            ):
                break
            if value in KEPT_PLACES or (capital and not particle and not word.group()[0].isupper()):
                break
            if not particle:
                end = word.end() - (len(word.group()) - len(word.group().rstrip(".")))
                count += 1
            if not capital and count == 2:
                break
            position = word.end() + 1
            if word.group().endswith(".") or folded[word.end() : word.end() + 1] != " ":
                break
        if end > match.end():
            yield Span(match.end(), end, Entity.LOCATION)


def find_postcodes(document: MatchText) -> Iterator[Span]:
    """ZIP after a state or with its extension, CEP, 邮编, British and Canadian codes."""
    for match in _ZIP.finditer(document.folded):
        group = 1 if match[1] else 0
        yield Span(match.start(group), match.end(group), Entity.LOCATION)
    for match in _TOWN_AND_ZIP.finditer(document.text):
        yield Span(match.start(1), match.end(1), Entity.LOCATION)
    for match in _CEP.finditer(document.folded):
        if not follows_unit(document.folded, match.end()):
            yield Span(match.start(), match.end(), Entity.LOCATION)
    for match in _FOREIGN.finditer(document.text):
        yield Span(match.start(), match.end(), Entity.LOCATION)
        town = _TOWN_BEFORE_CODE.search(
            document.text, max(0, match.start() - _REACH), match.start()
        )
        if town and not any(w in STOP for w in town[1].lower().split()):
            yield Span(town.start(1), town.end(1), Entity.LOCATION)
    for match in _CN_POST.finditer(document.folded):
        yield Span(match.start(1), match.end(1), Entity.LOCATION)


def find_towns(document: MatchText) -> Iterator[Span]:
    """Towns before a state: ``Peoria, IL``, ``Campinas/SP``; quarters after ``bairro``."""
    text, folded = document.text, document.folded
    flat = text.replace("\n", " ")
    for match in _STATE.finditer(flat):
        before = _TOWN_BEFORE.search(flat, max(0, match.start() - _REACH), match.start())
        if before is None:
            continue
        comma = flat[before.end()] == ","
        zip_code = _ZIP_AFTER.match(flat, match.end())
        if not comma and not zip_code:
            continue
        start = _skip_stop_words(folded, before.start(), before.end())
        if start < before.end() and not any(c.isdigit() for c in text[start : before.end()]):
            yield Span(start, before.end(), Entity.LOCATION)
    if ", " in flat:
        flat_folded = document.flat
        for match in _STATE_LOWER.finditer(flat_folded):
            before = _TOWN_BEFORE_LOWER.search(
                flat_folded, max(0, match.start() - _REACH), match.start()
            )
            if before and (
                text[match.start()].isupper() or _AFTER_LOWER_STATE.match(flat_folded, match.end())
            ):
                start = _skip_stop_words(folded, before.start(), before.end())
                if start < before.end():
                    yield Span(start, before.end(), Entity.LOCATION)
    for match in _UF_AFTER.finditer(flat):
        before = _TOWN_BEFORE_UF.search(flat, max(0, match.start() - _REACH), match.start())
        if before is None:
            continue
        start = _skip_stop_words(folded, before.start(), before.end())
        if before.end() - start >= 4 and not folded[start : before.end()].startswith(_COUNCILS):
            yield Span(start, before.end(), Entity.LOCATION)
        quarter = _QUARTER_BEFORE.search(flat, max(0, start - _REACH), start)
        if quarter and not any(
            w in STOP
            for w in folded[quarter.start(1) : quarter.end(1)].split()
            if w not in _QUARTERS
        ):
            yield Span(quarter.start(1), quarter.end(1), Entity.LOCATION)
    for match in _PLACE_AND_DATE.finditer(text):
        if not any(
            w in STOP or w in MEDICAL
            for w in folded[match.start(1) : match.end(1)].split()
            if w not in PARTICLES and w not in _QUARTERS
        ):
            yield Span(match.start(1), match.end(1), Entity.LOCATION)
    for match in _PAIR_PT.finditer(flat):
        for group in (1, 2):
            words = folded[match.start(group) : match.end(group)].split()
            if not any(
                (w in STOP and w not in _QUARTERS) or w in MEDICAL
                for w in words
                if w not in PARTICLES
            ):
                yield Span(match.start(group), match.end(group), Entity.LOCATION)
    for match in _QUARTER.finditer(folded):
        end_match = _FIELD_END.search(text, match.end())
        assert end_match is not None
        end = end_match.start()
        if 2 < end - match.end() < 40 and (
            text[match.end()].isupper() or len(folded[match.end() : end].split()) <= 3
        ):
            yield Span(match.end(), end, Entity.LOCATION)


def find_chinese_places(document: MatchText) -> Iterator[Span]:
    """Chinese addresses from the city down to the room, and cities."""
    text = document.text
    if not any("\u4e00" <= c <= "\u9fff" for c in text):
        return
    for match in _ADDRESS_CN.finditer(text):
        value = match.group()
        if not re.search(r"[市区县镇乡村路街巷道弄同里段苑园]", value) or not re.search(
            r"(?:路|街|大道|巷|胡同|弄|里|道|村|组|小区|花园|苑|镇|乡)", value
        ):
            continue
        lead = _CN_LEAD.match(value)
        start = match.start() + (lead.end() if lead else 0)
        yield Span(start, match.end(), Entity.LOCATION)
    for match in _CN_CITY.finditer(text):
        value = match[1]
        lead = _CN_LEAD.match(value)
        start = match.start(1) + (lead.end() if lead else 0)
        if (
            match.end(1) - start >= 3
            and not value.endswith(
                ("超市", "城市", "门市", "都市", "夜市", "本市", "我市", "全市", "该市", "外市")
            )
            and not text.startswith(
                ("场", "人民医院", "中心医院", "第", "立", "民", "面", "售"), match.end(1)
            )
        ):
            yield Span(start, match.end(1), Entity.LOCATION)


def _capitalised(text: str, folded: str, word: str, start: int, end: int) -> bool:
    position = folded.find(word, start, end)
    return position >= 0 and text[position].isupper() and not text[start:end].isupper()


def _name_follows(text: str, position: int) -> bool:
    rest = text[position : position + 3].lstrip(". ")
    return rest[:1].isupper()


def _skip_stop_words(folded: str, start: int, end: int) -> int:
    while start < end:
        word = folded[start:end].split(" ", 1)[0]
        if word.strip(".,") not in STOP and word.strip(".,") not in MEDICAL:
            return start
        start += len(word) + 1
    return end
