"""Invented values that fill the slots of the templates: persons, drugs, eponyms, numbers, dates; places are in ``places``."""

from __future__ import annotations

import random
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloud_service.training.ner.names import NameLists, NameModel, syllables
from partition.text.months import MONTHS


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
    given_like: NameModel
    family_like: NameModel
    common: Sequence[str] = ()
    # Words like these are names too; a head must learn it from the context.
    ambiguous: Sequence[str] = field(
        default=("Will", "May", "Hope", "Grace", "Brown", "Young", "Rose", "Hill", "Long", "Day", "Price", "Rich", "Mark", "Bill", "Dawn", "Faith", "Joy", "Page", "Cross", "Banks", "Stone", "Wood", "Berry", "Rocha", "Pinto", "Luz", "Campos", "Leite", "Ramos", "Neves", "Prado", "Reis", "Cruz", "Flores")
    )  # fmt: skip

    def pick(self, *options: str) -> str:
        """One of them."""
        return self.rng.choice(options)

    def invented(self, count: int = 2) -> str:
        """A name-like word."""
        return syllables(self.rng, count)

    def given(self) -> str:
        """A given name."""
        draw = self.rng.random()
        if draw < 0.12:
            return self.invented(self.rng.choice((1, 2, 2, 3)))
        if draw < 0.16:
            return self.rng.choice(self.ambiguous)
        if draw < 0.4:
            return self.given_like.draw(self.rng)
        name = self.rng.choice(self.names.given)
        if self.rng.random() < 0.08:
            name += self.pick("-", " ") + self.rng.choice(self.names.given)
        return name

    def family(self) -> str:
        """A surname, sometimes double, with a particle or a prefix."""
        draw = self.rng.random()
        if draw < 0.12:
            name = self.invented(self.rng.choice((1, 2, 2, 3)))
        elif draw < 0.18:
            name = self.rng.choice(self.ambiguous)
        elif draw < 0.45:
            name = self.family_like.draw(self.rng)
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

    def eponym(self) -> str:
        """A surname that stands for a sign, a score or an instrument, and so for nobody."""
        draw = self.rng.random()
        if draw < 0.2:
            name = self.invented(2)
        elif draw < 0.5:
            name = self.family_like.draw(self.rng)
        else:
            name = self.rng.choice(self.names.family)
        draw = self.rng.random()
        if draw < 0.15:
            return f"{name}-{self.rng.choice(self.names.family)}"
        return f"{name}'s" if draw < 0.2 and self.language == "en" else name

    def drug(self) -> str:
        """A drug: an invented brand, or a stem with a usual ending."""
        stem = self.invented(self.rng.choice((1, 2, 2)))
        if self.rng.random() < 0.5:
            return self.pick(stem, stem + self.pick(" XR", " XL", " CR", " SR", " HFA", "", ""))
        endings = "mab pril olol sartan statin azole cillin mycin floxacin tidine prazole gliptin gliflozin tinib zumab ximab parin xaban triptan setron caine cort vir dipine lukast profen oxetine pine done pam barb"
        if self.language == "pt":
            endings = "mabe pril olol sartana estatina azol cilina micina floxacino tidina prazol gliptina gliflozina tinibe parina xabana triptano setrona caína vir dipino lucaste profeno oxetina pina dona pam"
        name = stem + self.rng.choice(endings.split())
        return name if self.rng.random() < 0.4 else name.lower()

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
            name = MONTHS["pt"][month - 1]
            return self.pick(
                f"{day:02d}/{month:02d}/{year}", f"{day:02d}/{month:02d}/{short}", f"{day} de {name} de {year}",
                f"{day} de {name}", f"{name} de {year}", f"{day:02d}-{name[:3]}-{year}", f"{day:02d}.{month:02d}.{year}",
                f"{name[:3]}/{year}", f"{year}-{month:02d}-{day:02d}", f"{month:02d}/{year}", f"1º de {name}",
            )  # fmt: skip
        name = MONTHS["en"][month - 1].capitalize()
        return self.pick(
            f"{month:02d}/{day:02d}/{year}", f"{month}/{day}/{short}", f"{name} {day}, {year}", f"{name[:3]} {day}, {year}",
            f"{day} {name} {year}", f"{name} {day}", f"{name} {year}", f"{day:02d}-{name[:3].upper()}-{year}",
            f"{year}-{month:02d}-{day:02d}", f"{name} {day}{_ordinal(day)}", f"the {day}{_ordinal(day)} of {name}",
            f"{month:02d}-{day:02d}-{year}", f"{day:02d}.{month:02d}.{year}", f"{month:02d}/{year}",
        )  # fmt: skip


def _ordinal(day: int) -> str:
    return "th" if 10 < day < 20 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
