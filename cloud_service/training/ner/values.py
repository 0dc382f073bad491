"""Invented values that fill the slots of the templates: names, places, organisations, numbers.

Names come from Faker's lists of many countries (not en_US and pt_BR, which evaluation sets are usually made of) and, a third
of them, from random syllables: a head that has seen them learns the context instead of the list.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "cl",
    "cr",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gl",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "ph",
    "pr",
    "q",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "sl",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "wh",
    "y",
    "z",
    "zh",
    "x",
    "ts",
    "ng",
]
_NUCLEI = [
    "a",
    "e",
    "i",
    "o",
    "u",
    "ai",
    "au",
    "ea",
    "ee",
    "ei",
    "ia",
    "ie",
    "io",
    "oa",
    "oo",
    "ou",
    "ue",
    "y",
    "á",
    "é",
    "í",
    "ó",
    "ö",
    "ü",
    "ã",
    "ê",
]
_CODAS = ["", "", "", "n", "m", "r", "l", "s", "t", "k", "nd", "rt", "ll", "ck", "sh", "ng", "x", "z", "sson", "ski", "son", "man", "ez", "ley"]  # fmt: skip

_FAKER_LOCALES = {
    "en": [
        "en_GB",
        "en_NZ",
        "en_AU",
        "de_DE",
        "fr_FR",
        "it_IT",
        "nl_NL",
        "pl_PL",
        "sv_SE",
        "no_NO",
        "da_DK",
        "fi_FI",
        "cs_CZ",
        "hr_HR",
        "ro_RO",
        "hu_HU",
        "tr_TR",
        "id_ID",
        "en_PK",
        "en_KE",
        "en_NG",
        "es_ES",
        "es_CO",
        "es_AR",
        "pt_PT",
        "sl_SI",
        "et_EE",
        "lv_LV",
        "lt_LT",
        "vi_VN",
        "yo_NG",
        "ga_IE",
        "zu_ZA",
        "ha_NG",
    ],
    "pt": [
        "pt_PT",
        "es_ES",
        "it_IT",
        "es_CO",
        "es_AR",
        "es_CL",
        "fr_FR",
        "ro_RO",
        "de_DE",
        "pl_PL",
    ],
}


@dataclass(frozen=True, slots=True)
class NameLists:
    """Given names, surnames, towns, and plain words, to draw from."""

    given: tuple[str, ...]
    family: tuple[str, ...]
    towns: tuple[str, ...]
    words: tuple[str, ...] = ()


def load_names(language: str, words: Iterable[str] = ()) -> NameLists:
    """Collect the lists of Faker's locales; Faker is needed for training only.

    Args:
        language: ``en`` or ``pt``.
        words: Plain words of the language, which fill sentences that hold no identifier.
    """
    from faker import Faker
    from faker.config import AVAILABLE_LOCALES

    given: set[str] = set()
    family: set[str] = set()
    towns: set[str] = set()
    for locale in _FAKER_LOCALES[language]:
        if locale not in AVAILABLE_LOCALES:
            continue
        fake = Faker(locale)
        fake.seed_instance(7)
        for _ in range(700):
            given.add(fake.first_name())
            family.add(fake.last_name())
        for _ in range(250):
            towns.add(fake.city())

    def latin(name: str) -> bool:
        return 2 < len(name) < 22 and all(
            (c.isalpha() and ord(c) < 0x250) or c in " '-" for c in name
        )

    return NameLists(
        tuple(sorted(filter(latin, given))),
        tuple(sorted(filter(latin, family))),
        tuple(sorted(filter(latin, towns))),
        tuple(sorted(words)),
    )


def english_words() -> Iterator[str]:
    """Lower-case words of two word lists in the public domain (package ``english-words``)."""
    from english_words import get_english_words_set

    for source in ("web2", "gcide"):
        for word in get_english_words_set([source], alpha=True):
            if word.islower() and 2 < len(word) < 11:
                yield word


def common_words(texts: Iterable[str]) -> tuple[str, ...]:
    """Lower-case words of some texts, each once; the templates' own, and for English those of Python's manual."""
    found: set[str] = set()
    for text in texts:
        found.update(word for word in re.findall(r"[^\W\d_]{2,}", text) if word.islower())
    return tuple(sorted(found))


@dataclass(slots=True)
class Values:
    """Draws values; all randomness comes from ``rng``."""

    rng: random.Random
    names: NameLists
    language: str
    common: Sequence[str] = ()
    # Words like these are names too; a head must learn it from the context.
    ambiguous: Sequence[str] = field(
        default=("Will", "May", "Hope", "Grace", "Brown", "Young", "Rose", "Hill", "Long", "Day", "Price", "Rich", "Mark", "Bill", "Dawn", "Faith", "Joy", "Page", "Cross", "Banks", "Stone", "Wood", "Berry", "Rocha", "Pinto", "Luz", "Campos", "Leite", "Ramos", "Neves", "Prado", "Reis", "Cruz", "Flores")
    )  # fmt: skip

    def pick(self, *options: str) -> str:
        """One of them."""
        return self.rng.choice(options)

    def invented(self, syllables: int = 2) -> str:
        """A name-like word."""
        word = "".join(
            self.rng.choice(_ONSETS) + self.rng.choice(_NUCLEI) for _ in range(syllables)
        ) + self.rng.choice(_CODAS)
        return word.capitalize()

    def given(self) -> str:
        """A given name."""
        draw = self.rng.random()
        if draw < 0.25:
            return self.invented(self.rng.choice((1, 2, 2, 3)))
        if draw < 0.29:
            return self.rng.choice(self.ambiguous)
        name = self.rng.choice(self.names.given)
        if self.rng.random() < 0.08:
            name += self.pick("-", " ") + self.rng.choice(self.names.given)
        return name

    def family(self) -> str:
        """A surname, sometimes double, with a particle or a prefix."""
        draw = self.rng.random()
        if draw < 0.3:
            name = self.invented(self.rng.choice((1, 2, 2, 3)))
        elif draw < 0.35:
            name = self.rng.choice(self.ambiguous)
        else:
            name = self.rng.choice(self.names.family)
        draw = self.rng.random()
        if draw < 0.06:
            name += "-" + self.rng.choice(self.names.family)
        elif draw < 0.08:
            name = self.pick("O'", "D'", "Mc", "Mac", "St. ") + name
        elif draw < 0.1 and self.language == "en":
            name = self.pick("van ", "de ", "von ", "van der ", "al-", "el ", "bin ", "la ") + name
        return name

    def word(self) -> str:
        """A plain word, every second time a common one."""
        if self.common and self.rng.random() < 0.5:
            return self.rng.choice(self.common)
        return self.rng.choice(self.names.words) if self.names.words else self.pick("the", "and")

    def letter(self) -> str:
        """An initial."""
        return self.rng.choice("ABCDEFGHIJKLMNOPRSTVWYZ")

    def full_name(self) -> str:
        """A whole name in running text."""
        given, family = self.given(), self.family()
        if self.language == "pt":
            draw = self.rng.random()
            link = self.pick(" ", " ", " ", " de ", " da ", " dos ", " do ", " e ")
            if draw < 0.35:
                return f"{given} {self.family()}{link}{family}"
            if draw < 0.5:
                return f"{given} {self.given()}{link}{family}"
            if draw < 0.6:
                return f"{given} {self.given()} {self.family()}{link}{family}"
            if draw < 0.65:
                return f"{given} {self.letter()}. {family}"
            return f"{given}{link}{family}"
        draw = self.rng.random()
        if draw < 0.2:
            return f"{given} {self.letter()}. {family}"
        if draw < 0.24:
            return f"{given} {self.given()} {family}"
        if draw < 0.28:
            return f"{given} {family} {self.pick('Jr.', 'Sr.', 'III', 'II', 'Jr', 'IV')}"
        if draw < 0.3:
            return f"{given} {self.letter()} {family}"
        if draw < 0.32:
            return f"{self.letter()}. {self.letter()}. {family}"
        return f"{given} {family}"

    def person(self) -> str:
        """A name in any order that notes use."""
        draw = self.rng.random()
        if draw < 0.6:
            return self.full_name()
        if draw < 0.75:
            middle = self.pick(
                "", "", f" {self.letter()}", f" {self.letter()}.", f" {self.given()}"
            )
            return f"{self.family()}, {self.given()}{middle}"
        if draw < 0.83:
            return f"{self.letter()}. {self.family()}"
        if draw < 0.86:
            return f"{self.family()} {self.letter()}"
        if draw < 0.9:
            return f"{self.family()}, {self.letter()}."
        if draw < 0.95:
            return self.given()
        return self.family()

    def dicom_name(self) -> str:
        """A name in DICOM order."""
        parts = [self.family(), self.given()]
        if self.rng.random() < 0.4:
            parts.append(self.letter())
        joined = "^".join(parts)
        return joined.upper() if self.rng.random() < 0.7 else joined

    def initials(self) -> str:
        """Two or three letters."""
        size = self.rng.choice((2, 2, 3))
        letters = [self.letter() for _ in range(size)]
        return self.pick("".join(letters), "".join(letters), ".".join(letters) + ".")

    def town(self) -> str:
        """A town."""
        if self.rng.random() < 0.3:
            suffixes: tuple[str, ...] = (
                "ville",
                "ton",
                "burg",
                " Falls",
                " Springs",
                "field",
                "port",
                " Beach",
                " Heights",
                "",
            )
            if self.language == "pt":
                suffixes = (
                    "ópolis",
                    "lândia",
                    " do Sul",
                    " da Serra",
                    "tuba",
                    "mirim",
                    "",
                    " do Norte",
                )
            return self.invented(self.rng.choice((1, 2))) + self.rng.choice(suffixes)
        return self.rng.choice(self.names.towns)

    def digits(self, low: int, high: int) -> str:
        """A run of digits."""
        return "".join(self.rng.choice(string.digits) for _ in range(self.rng.randint(low, high)))

    def number(self, low: int, high: int) -> str:
        """A whole number."""
        return str(self.rng.randint(low, high))

    def identifier(self) -> str:
        """A record, account or device number."""
        letters = "".join(
            self.rng.choice(string.ascii_uppercase) for _ in range(self.rng.randint(1, 4))
        )
        return self.pick(
            self.digits(5, 10),
            self.digits(6, 8),
            letters + self.digits(4, 9),
            f"{letters}-{self.digits(3, 8)}",
            f"{self.digits(2, 3)}-{self.digits(4, 6)}",
            f"{self.digits(2, 4)}/{self.digits(4, 6)}",
            f"{letters}{self.digits(2, 3)}-{self.digits(3, 5)}",
        )

    def phone(self) -> str:
        """A telephone number."""
        d = self.digits
        if self.language == "pt":
            return self.pick(
                f"({d(2, 2)}) 9{d(4, 4)}-{d(4, 4)}",
                f"{d(2, 2)} {d(4, 4)}-{d(4, 4)}",
                f"+55 {d(2, 2)} 9{d(4, 4)} {d(4, 4)}",
                f"9{d(4, 4)}-{d(4, 4)}",
            )
        return self.pick(
            f"({d(3, 3)}) {d(3, 3)}-{d(4, 4)}",
            f"{d(3, 3)}-{d(3, 3)}-{d(4, 4)}",
            f"{d(3, 3)}.{d(3, 3)}.{d(4, 4)}",
            f"+1 {d(3, 3)} {d(3, 3)} {d(4, 4)}",
            f"{d(3, 3)}-{d(4, 4)}",
            f"0{d(4, 4)} {d(6, 6)}",
        )

    def day_and_month(self) -> str:
        """A date without its year, in digits."""
        month, day = self.rng.randint(1, 12), self.rng.randint(1, 28)
        if self.language == "pt":
            return f"{day:02d}/{month:02d}" if self.rng.random() < 0.7 else f"{day}/{month}"
        return f"{month}/{day}" if self.rng.random() < 0.7 else f"{month:02d}/{day:02d}"

    def date(self) -> str:
        """A date in any usual writing."""
        year, month, day = (
            self.rng.randint(1930, 2029),
            self.rng.randint(1, 12),
            self.rng.randint(1, 28),
        )
        short = f"{year % 100:02d}"
        if self.language == "pt":
            name = _MONTHS_PT[month - 1]
            return self.pick(
                f"{day:02d}/{month:02d}/{year}", f"{day:02d}/{month:02d}/{short}", f"{day} de {name} de {year}",
                f"{day} de {name}", f"{name} de {year}", f"{day:02d}-{name[:3]}-{year}", f"{day:02d}.{month:02d}.{year}",
                f"{name[:3]}/{year}", f"{year}-{month:02d}-{day:02d}", f"{month:02d}/{year}", f"1º de {name}",
            )  # fmt: skip
        name = _MONTHS_EN[month - 1]
        return self.pick(
            f"{month:02d}/{day:02d}/{year}", f"{month}/{day}/{short}", f"{name} {day}, {year}", f"{name[:3]} {day}, {year}",
            f"{day} {name} {year}", f"{name} {day}", f"{name} {year}", f"{day:02d}-{name[:3].upper()}-{year}",
            f"{year}-{month:02d}-{day:02d}", f"{name} {day}{_ordinal(day)}", f"the {day}{_ordinal(day)} of {name}",
            f"{month:02d}-{day:02d}-{year}", f"{day:02d}.{month:02d}.{year}", f"{month:02d}/{year}",
        )  # fmt: skip

    def street(self) -> str:
        """Street, number and unit."""
        stem = self.pick(
            self.family(),
            self.given(),
            self.town(),
            self.invented(2),
            f"{self.family()} {self.pick('Hill', 'Park', 'Lake', 'Creek', 'Mill')}",
        )
        if self.language == "pt":
            kind = self.pick(
                "Rua", "Avenida", "Av.", "R.", "Travessa", "Alameda", "Praça", "Rodovia", "Estrada"
            )
            name = self.pick(
                stem,
                f"{self.pick('Dr.', 'Coronel', 'Padre', 'Prof.', 'Dom', 'São')} {stem}",
                f"das {stem}",
                self.full_name(),
            )
            number = self.number(1, 4000)
            return self.pick(
                f"{kind} {name}, {number}", f"{kind} {name}, nº {number}", f"{kind} {name}",
                f"{kind} {name}, {number}, apto {self.number(1, 1200)}", f"{kind} {name} {number}, bloco {self.letter()}",
            )  # fmt: skip
        kind = self.pick(
            "Street",
            "St",
            "Ave",
            "Avenue",
            "Road",
            "Rd",
            "Lane",
            "Ln",
            "Drive",
            "Dr",
            "Blvd",
            "Court",
            "Ct",
            "Way",
            "Place",
            "Terrace",
            "Circle",
            "Pkwy",
        )
        unit = self.pick(
            "",
            "",
            "",
            f", Apt {self.number(1, 99)}",
            f" #{self.number(1, 40)}",
            f", Unit {self.letter()}",
            f", Suite {self.number(100, 900)}",
        )
        return f"{self.number(1, 9999)} {self.pick('', '', 'N ', 'West ')}{stem} {kind}{unit}"

    def postcode(self) -> str:
        """A postcode."""
        if self.language == "pt":
            return f"{self.digits(5, 5)}-{self.digits(3, 3)}"
        return self.pick(self.digits(5, 5), f"{self.digits(5, 5)}-{self.digits(4, 4)}")

    def organization(self) -> str:
        """A hospital, laboratory, home, school or employer."""
        stem = self.pick(self.family(), self.town(), self.invented(2), f"{self.pick('St.', 'Saint', 'Mount', 'North', 'Lake', 'Good')} {self.given()}",
                         f"{self.invented(2)} {self.pick('Valley', 'Ridge', 'County', 'River', 'Park')}")  # fmt: skip
        if self.language == "pt":
            stem = self.pick(stem, f"{self.pick('São', 'Santa', 'Nossa Senhora de', 'Dom', 'Dr.')} {self.given()}", f"{self.pick('Jardim', 'Vila', 'Parque')} {self.invented(2)}",
                             f"{self.pick('da', 'do', 'de')} {self.town()}")  # fmt: skip
            head = self.pick(
                "Hospital", "Hospital Municipal", "Hospital Regional", "Hospital Universitário", "Clínica", "Clínica Médica", "Laboratório", "UPA", "UBS", "Santa Casa de",
                "Maternidade", "Policlínica", "Instituto", "Centro de Saúde", "Casa de Repouso", "Escola Estadual", "Colégio", "Universidade Federal de", "Supermercado",
                "Construtora", "Transportadora", "Metalúrgica", "Prefeitura de", "Banco", "Padaria", "Farmácia", "Grupo", "Ambulatório", "Pronto-Socorro", "Fundação", "Cooperativa", "Indústria",
            )  # fmt: skip
            return f"{head} {stem}" + self.pick("", "", "", " Ltda", " S.A.", " e Filhos")
        tail = self.pick(
            "Hospital", "General Hospital", "Medical Center", "Clinic", "Health", "Regional Medical Center", "Family Practice", "Nursing Home", "Imaging", "Radiology Associates",
            "Laboratory", "Hospice", "Elementary School", "High School", "University", "College", "Rehabilitation Center", "Care Center", "Surgery Center", "Dialysis",
            "Logistics", "Foods", "Insurance", "Bank", "Manufacturing", "Construction", "Steel", "Trucking", "Police Department", "Fire Department", "Bakery", "Motors",
            "Supermarket", "Church", "Pharmacy", "Electric", "Airlines", "Industries", "Community Health Center", "Children's Hospital", "Orthopedics", "Physical Therapy", "Senior Living",
        )  # fmt: skip
        return self.pick(
            f"{stem} {tail}", f"{stem} {tail}", f"{stem} {tail}", f"{stem} {tail} {self.pick('Inc.', 'LLC', 'Ltd', 'Group', 'Partners')}",
            f"{self.pick('University', 'Children’s Hospital', 'Cancer Institute', 'Heart Center')} of {self.town()}", f"{stem} & {self.family()}",
        )  # fmt: skip


_MONTHS_EN = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
_MONTHS_PT = [
    "janeiro",
    "fevereiro",
    "março",
    "abril",
    "maio",
    "junho",
    "julho",
    "agosto",
    "setembro",
    "outubro",
    "novembro",
    "dezembro",
]


def _ordinal(day: int) -> str:
    return "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
