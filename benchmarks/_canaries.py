"""Canaries: identifiers that exist once, in the places where identifiers stand, in the spellings that slip through filters."""

from __future__ import annotations

import base64
import random
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edge_agent.anonymize.alignment import align

_SYLLABLES = "bra vel kor min tas dru fen gol hir jas lum nep oro pel qua rin sto tul vax wen yor zed cham bli ester onda ulfi".split()
_CYRILLIC = str.maketrans("aeopcxABEKMHOPCTX", "аеорсхАВЕКМНОРСТХ")
_WIDE = str.maketrans("0123456789", "０１２３４５６７８９")
_MIN = 6  # letters or digits: shorter ones stand in ordinary words


@dataclass(frozen=True, slots=True)
class CanaryNote:
    """A request's text and the values that may not leave."""

    text: str
    values: tuple[str, ...]
    language: str


def canary_notes(*, seed: int) -> Iterator[CanaryNote]:
    """Requests without end, each with values of its own."""
    rng = random.Random(seed)
    spellings = (_plain, _plain, str.upper, _wide_digits, _zero_width, _homoglyphs, _nbsp, _decomposed, _broken)  # fmt: skip
    while True:
        language = rng.choice(("en", "en", "pt", "zh"))
        spell = rng.choice(spellings)
        values = _values(rng, language)
        shown = {name: _written(spell, value, name, rng) for name, value in values.items()}
        text = rng.choice(_TEMPLATES[language]).format(**shown)
        yield CanaryNote(text, tuple(values.values()), language)


def leaks(recorded: bytes, notes: Iterable[CanaryNote]) -> int:
    """How many values stand in the bytes, in any of the writings that a machine or a person could read back."""
    text = recorded.decode("utf-8", "ignore")
    plain = align(text).folded
    dense = "".join(c for c in plain if c.isalnum())
    views = (text, plain, dense, dense[::-1], urllib.parse.unquote(text))
    count = 0
    for note in notes:
        for value in note.values:
            folded = align(value).folded
            bare = "".join(c for c in folded if c.isalnum())
            forms = {value, folded, bare} | _encoded(value)
            count += any(form in view for form in forms for view in views)
    return count


def _encoded(value: str) -> set[str]:
    raw = value.encode()
    return {raw.hex(), base64.b64encode(raw).decode().rstrip("=")[:-1]}


def _values(rng: random.Random, language: str) -> dict[str, str]:
    def digits(count: int) -> str:
        return str(rng.randint(1, 9)) + "".join(str(rng.randint(0, 9)) for _ in range(count - 1))

    def name() -> str:
        return "".join(rng.sample(_SYLLABLES, 3)).capitalize()

    made = {
        "given": name(),
        "family": name(),
        "doctor": name(),
        "mrn": digits(9),
        "email": f"{name().lower()}.{name().lower()}@mail.example",
        "uid": f"1.2.826.0.1.{digits(7)}.{digits(9)}.{digits(6)}",
        "device": f"SN{digits(8)}",
    }
    match language:
        case "en":
            made["phone"] = f"({digits(3)}) {rng.randint(200, 999)}-{digits(4)}"
            made["national"] = f"{digits(3)}-{digits(2)}-{digits(4)}"
        case "pt":
            made["phone"] = f"({rng.randint(11, 99)}) 9{digits(4)}-{digits(4)}"
            made["national"] = _cpf(rng)
        case _:
            made["given"], made["family"], made["doctor"] = _han(rng), _han(rng), _han(rng)
            made["phone"] = f"1{rng.choice('3578')}{digits(9)}"
            made["national"] = _resident(rng)
    return made


def _han(rng: random.Random) -> str:
    return rng.choice("赵钱孙周吴郑冯陈褚卫蒋沈韩杨") + "".join(
        chr(rng.randint(0x5000, 0x8FFF)) for _ in range(2)
    )


def _cpf(rng: random.Random) -> str:
    figures = [rng.randint(0, 9) for _ in range(9)]
    for size in (10, 11):
        total = sum(f * w for f, w in zip(figures, range(size, 1, -1), strict=True))
        figures.append(total * 10 % 11 % 10)
    raw = "".join(map(str, figures))
    return f"{raw[:3]}.{raw[3:6]}.{raw[6:9]}-{raw[9:]}"


def _resident(rng: random.Random) -> str:
    body = f"11010{rng.randint(1, 9)}19{rng.randint(40, 99)}{rng.randint(1, 12):02d}{rng.randint(1, 28):02d}{rng.randint(100, 999)}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(b) * w for b, w in zip(body, weights, strict=True)) % 11]


def _written(spell: Callable[[str], str], value: str, name: str, rng: random.Random) -> str:
    if spell is _broken:  # half a pair, a null byte and the like, next to the value
        return rng.choice(("\udc80", "\0", "\u202e", "\ufffe", "\u0301")) + f" {value}"
    if spell is str.upper and name in ("email",):
        return value
    return spell(value)


def _plain(value: str) -> str:
    return value


def _broken(value: str) -> str:
    return value


def _wide_digits(value: str) -> str:
    return value.translate(_WIDE)


def _zero_width(value: str) -> str:
    return "\u200b".join(value) if len(value) > _MIN else value


def _homoglyphs(value: str) -> str:
    return value if "@" in value else value.translate(_CYRILLIC)


def _nbsp(value: str) -> str:
    return value.replace(" ", "\u00a0").replace("-", "\u2011")


def _decomposed(value: str) -> str:
    return unicodedata.normalize("NFD", value)


_TEMPLATES = {
    "en": (
        "Patient: {given} {family}, MRN {mrn}, tel {phone}. Chest clear. Reported by Dr. {doctor}.",
        "RADIOLOGY REPORT\nPatient Name: {family}, {given}\nSSN: {national}\nStudy UID: {uid}\nNo pneumothorax. Mr. {family} was called at {phone}.\nSigned by: {doctor}",
        "Dear Dr. {doctor},\nplease see Mrs. {family} (e-mail {email}). Serial number {device}.\nPatient ID: {mrn}",
        "(0010,0010) PN [{family}^{given}] # PatientName\n(0010,0020) LO [{mrn}] # PatientID\n(0018,1000) LO [{device}] # DeviceSerialNumber\n(0008,0090) PN [{doctor}] # ReferringPhysicianName\n(0020,000d) UI [{uid}] # StudyInstanceUID",
    ),
    "pt": (
        "Paciente: {given} {family}, CPF {national}, prontuário {mrn}, telefone {phone}. Pulmões livres. Laudado por Dr. {doctor}.",
        "Nome do paciente: {given} {family}\nNº de série: {device}\nE-mail: {email}\nSem derrame pleural. A Sra. {family} foi avisada.\nMédico: Dr. {doctor}",
    ),
    "zh": (
        "姓名：{family}，住院号：{mrn}，身份证号：{national}，电话：{phone}。双肺未见异常。主治医师：{doctor}。",
        "患者姓名：{given}\n设备序列号：{device}\n邮箱：{email}\n检查所见：未见明显异常。报告医师：{doctor}\n联系电话：{phone}",
    ),
}
