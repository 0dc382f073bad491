"""Names, dates, numbers and places that the training recipe does not draw from."""

from __future__ import annotations

import random
from dataclasses import dataclass

from benchmarks._held_out.names import CITIES, FAMILY, GIVEN, GIVEN_ZH, ORGANIZATIONS, STREETS

_EN = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"]  # fmt: skip
_PT = ["janeiro", "fevereiro", "março", "abril", "maio", "junho", "julho", "agosto", "setembro", "outubro", "novembro", "dezembro"]  # fmt: skip
_TENS = {90: "ninety", 91: "ninety-one", 92: "ninety-two", 93: "ninety-three", 94: "ninety-four", 95: "ninety-five", 96: "ninety-six", 97: "ninety-seven", 98: "ninety-eight"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Person:
    """One name and the ways in which notes write it."""

    given: str
    family: str
    middle: str
    chinese: bool = False

    def written(self, how: str) -> str:
        """``full``, ``last_first``, ``caps``, ``caps_comma``, ``dicom``, ``initials`` and so on."""
        given, family, letter = self.given, self.family, self.middle
        if self.chinese:
            return {
                "full": family + given, "fam": family, "spaced": f"{family} {given}", "dicom": f"{family}^{given}",
            }[how]  # fmt: skip
        ways = {
            "full": f"{given} {family}", "giv": given, "fam": family, "middle": f"{given} {letter}. {family}", "last_first": f"{family}, {given}",
            "last_init": f"{family}, {given[0]}.", "init_last": f"{given[0]}. {family}", "initials": f"{given[0]}.{family[0]}.",
            "caps": f"{given} {family}".upper(), "caps_comma": f"{family}, {given} {letter}".upper(), "caps_fam": family.upper(),
            "dicom": f"{family}^{given}^{letter}".upper().replace(" ", "_"), "dicom_mixed": f"{family}^{given}", "lower": f"{given} {family}".lower(),
            "lower_giv": given.lower(), "lower_fam": family.lower(), "caps_giv": given.upper(),
        }  # fmt: skip
        return ways[how]


class Values:
    """Draws values; all randomness comes from ``rng``."""

    def __init__(self, rng: random.Random, language: str) -> None:
        self._rng = rng
        self._language = language

    def person(self) -> Person:
        """A name of the language."""
        rng = self._rng
        if self._language == "zh":
            return Person(rng.choice(GIVEN_ZH), rng.choice(FAMILY["zh"]), "", chinese=True)
        family = rng.choice(FAMILY[self._language])
        if rng.random() < 0.12:
            family += ("-" if self._language == "en" else " ") + rng.choice(FAMILY[self._language])
        return Person(rng.choice(GIVEN[self._language]), family, rng.choice("ABDEFGHJKLMNRST"))

    def make(self, what: str) -> tuple[str, str]:
        """A value and its entity; no entity for what is kept."""
        maker = getattr(self, f"_{what}")
        entity = _ENTITIES.get(what, "")
        return entity, maker()

    def _digits(self, count: int) -> str:
        return str(self._rng.randint(1, 9)) + "".join(
            str(self._rng.randint(0, 9)) for _ in range(count - 1)
        )

    def _pick(self, *options: str) -> str:
        return self._rng.choice(options)

    def _date(self) -> str:
        y, m, d = self._rng.randint(2019, 2026), self._rng.randint(1, 12), self._rng.randint(1, 28)
        if self._language == "zh":
            return self._pick(f"{y}年{m}月{d}日", f"{y}-{m:02d}-{d:02d}", f"{y}.{m:02d}.{d:02d}", f"{m}月{d}日", f"{y}/{m}/{d}")  # fmt: skip
        if self._language == "pt":
            name = _PT[m - 1]
            return self._pick(f"{d:02d}/{m:02d}/{y}", f"{d} de {name} de {y}", f"{d:02d}.{m:02d}.{y}", f"{d:02d}/{name[:3]}/{y}", f"{d:02d}-{m:02d}-{y}", f"{y}-{m:02d}-{d:02d}", f"{d} de {name}")  # fmt: skip
        name, suffix = (
            _EN[m - 1],
            "th" if 10 < d < 20 else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th"),
        )
        return self._pick(f"{m:02d}/{d:02d}/{y}", f"{m}/{d}/{y % 100:02d}", f"{name} {d}, {y}", f"{d} {name} {y}", f"{d}{suffix} {name} {y}", f"{d}{suffix} of {name}", f"{y}-{m:02d}-{d:02d}", f"{d:02d}{name[:3].upper()}{y}", f"{d:02d}-{name[:3]}-{y}", f"{name[:3]} {d}{suffix}", f"{y}/{m:02d}/{d:02d}", f"{d:02d}.{m:02d}.{y}")  # fmt: skip

    def _dob(self) -> str:
        y, m, d = self._rng.randint(1936, 2018), self._rng.randint(1, 12), self._rng.randint(1, 28)
        if self._language == "zh":
            return self._pick(f"{y}年{m}月{d}日", f"{y}-{m:02d}-{d:02d}")
        if self._language == "pt":
            return self._pick(f"{d:02d}/{m:02d}/{y}", f"{d:02d}-{m:02d}-{y}", f"{d:02d}.{m:02d}.{y}")  # fmt: skip
        return self._pick(f"{m:02d}/{d:02d}/{y}", f"{d:02d}/{m:02d}/{y}", f"{_EN[m - 1]} {d}, {y}", f"{d} {_EN[m - 1][:3]} {y}")  # fmt: skip

    def _month_year(self) -> str:
        y, m = self._rng.randint(2019, 2026), self._rng.randint(1, 12)
        if self._language == "zh":
            return f"{y}年{m}月"
        if self._language == "pt":
            return self._pick(f"{_PT[m - 1]} de {y}", f"{m:02d}/{y}")
        return self._pick(f"{_EN[m - 1]} {y}", f"{m:02d}/{y}")

    def _da(self) -> str:
        return f"{self._rng.randint(2019, 2026)}{self._rng.randint(1, 12):02d}{self._rng.randint(1, 28):02d}"

    def _age90(self) -> str:
        return str(self._rng.randint(90, 103))

    def _age90_words(self) -> str:
        return _TENS[self._rng.randint(90, 98)]

    def _age(self) -> str:
        return str(self._rng.randint(3, 88))

    def _phone(self) -> str:
        a, b, c = self._digits(3), self._digits(3), self._digits(4)
        if self._language == "zh":
            number = self._pick("13", "15", "18", "17") + self._digits(9)
            return self._pick(number, f"{number[:3]}-{number[3:7]}-{number[7:]}", f"{number[:3]} {number[3:7]} {number[7:]}", f"0{self._digits(2)}-{self._digits(8)}")  # fmt: skip
        if self._language == "pt":
            ddd, x = self._pick("11", "21", "31", "41", "51", "71", "85"), self._digits(4)
            return self._pick(f"({ddd}) 9{x}-{c}", f"{ddd} 9{x} {c}", f"+55 {ddd} 9{x}-{c}", f"({ddd}) 3{self._digits(3)}-{c}", f"{ddd}9{x}{c}", f"0{ddd} 3{self._digits(3)}.{c}")  # fmt: skip
        return self._pick(f"({a}) {b}-{c}", f"{a}-{b}-{c}", f"{a}.{b}.{c}", f"+1 {a} {b} {c}", f"1-{a}-{b}-{c}", f"+44 7{self._digits(3)} {self._digits(6)}", f"{a} {b} {c}", f"{a}/{b}-{c}")  # fmt: skip

    def _ext(self) -> str:
        return self._digits(self._rng.choice((4, 5)))

    def _mrn(self) -> str:
        d = self._digits
        return self._pick(d(7), d(8), f"{d(2)}-{d(2)}-{d(4)}", f"MR{d(6)}", f"{d(3)} {d(3)} {d(3)}", f"H{d(8)}", f"{d(6)}-{self._rng.randint(0, 9)}")  # fmt: skip

    def _acc(self) -> str:
        d = self._digits
        return self._pick(
            f"ACC{d(7)}", f"{d(4)}-{d(6)}", f"CR-{d(2)}-{d(6)}", f"R{d(9)}", f"E{d(8)}"
        )

    def _serial(self) -> str:
        d = self._digits
        return self._pick(f"SN{d(6)}", f"{d(5)}-{d(3)}", f"QX{d(4)}A{d(2)}", f"{d(9)}", f"GE-{d(6)}-{d(2)}")  # fmt: skip

    def _policy(self) -> str:
        return self._pick(f"W{self._digits(9)}", f"XJ-{self._digits(7)}", self._digits(10))

    def _ssn(self) -> str:
        return self._pick(
            f"{self._digits(3)}-{self._digits(2)}-{self._digits(4)}",
            f"{self._digits(3)} {self._digits(2)} {self._digits(4)}",
        )

    def _uid(self) -> str:
        return f"1.3.12.2.1107.5.1.4.{self._digits(5)}.3000{self._digits(12)}.{self._digits(5)}"

    def _user(self) -> str:
        return self._rng.choice(GIVEN["en"])[0].lower() + self._rng.choice(
            FAMILY["en"]
        ).lower().replace(" ", "").replace("'", "").replace("-", "")

    def _email(self) -> str:
        first = self._rng.choice(GIVEN["en"]).lower()
        last = self._rng.choice(FAMILY["en"]).lower().replace(" ", "").replace("'", "")
        return f"{self._pick(f'{first}.{last}', f'{first[0]}{last}{self._digits(2)}', f'{last}_{first}')}@{self._pick('postbox.example', 'riverhealth.example.org', 'pacs.clinic.local', 'mail.example.com.br')}"

    def _url(self) -> str:
        return (
            self._pick("https://portal.", "http://", "www.")
            + f"{self._pick('lakehealth', 'nordimed', 'saudeviva')}.example.{self._pick('org', 'com', 'net')}/{self._pick('p', 'pt', 'visit')}/{self._digits(6)}"
        )

    def _ip(self) -> str:
        r = self._rng.randint
        return f"10.{r(0, 255)}.{r(0, 255)}.{r(1, 254)}"

    def _host(self) -> str:
        return f"{self._pick('ctws', 'pacs', 'ris')}-{self._digits(2)}.{self._pick('imaging.lan', 'hosp.local', 'rad.internal')}"

    def _city(self) -> str:
        return self._rng.choice(CITIES[self._language])

    def _street(self) -> str:
        name, r = self._rng.choice(STREETS[self._language]), self._rng.randint
        if self._language == "zh":
            return (
                f"{self._rng.choice(CITIES['zh'])}{name}{r(1, 300)}号{r(1, 20)}栋{r(101, 2500)}室"
            )
        if self._language == "pt":
            return self._pick(
                f"{name}, {r(10, 2900)}", f"{name}, nº {r(10, 2900)}", f"{name} {r(10, 900)}"
            )
        return f"{r(2, 9900)} {name}" + self._pick("", "", f", Apt {r(1, 60)}", f" Unit {r(1, 9)}B")

    def _zip(self) -> str:
        if self._language == "pt":
            return self._pick(f"{self._digits(5)}-{self._digits(3)}", f"{self._digits(2)}.{self._digits(3)}-{self._digits(3)}")  # fmt: skip
        return self._pick(self._digits(5), f"{self._digits(5)}-{self._digits(4)}")

    def _org(self) -> str:
        return self._rng.choice(ORGANIZATIONS[self._language])

    def _crm(self) -> str:
        return self._digits(self._rng.choice((5, 6)))

    def _cpf(self) -> str:
        digits = [self._rng.randint(0, 9) for _ in range(9)]
        for size in (9, 10):
            total = sum(v * w for v, w in zip(digits, range(size + 1, 1, -1), strict=True))
            digits.append((total * 10 % 11) % 10)
        raw = "".join(map(str, digits))
        return self._pick(f"{raw[:3]}.{raw[3:6]}.{raw[6:9]}-{raw[9:]}", raw, f"{raw[:3]} {raw[3:6]} {raw[6:9]} {raw[9:]}")  # fmt: skip

    def _rg(self) -> str:
        return f"{self._digits(2)}.{self._digits(3)}.{self._digits(3)}-{self._pick('X', '1', '7')}"

    def _cns(self) -> str:
        while True:
            digits = [7, *(self._rng.randint(0, 9) for _ in range(14))]
            if sum(v * w for v, w in zip(digits, range(15, 0, -1), strict=True)) % 11 == 0:
                raw = "".join(map(str, digits))
                return self._pick(raw, f"{raw[:3]} {raw[3:7]} {raw[7:11]} {raw[11:]}")

    def _plate(self) -> str:
        if self._language == "zh":
            return self._pick("粤B", "沪A", "京N") + "·" + self._pick("7K3M2", "52L8Q", "A9136")
        if self._language == "pt":
            return self._pick("QRT4E29", "BRA-2E19", "KLM-3071")
        return self._pick("7XKL482", "HJR 5521")

    def _resident(self) -> str:
        body = f"{self._pick('110105', '310112', '440305', '510104')}{self._rng.randint(1940, 2015)}{self._rng.randint(1, 12):02d}{self._rng.randint(1, 28):02d}{self._digits(3)}"
        weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
        check = "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]
        return body + self._pick(check, check.lower())

    def _wide(self) -> str:
        """A number in full-width digits."""
        return self._mrn_plain().translate(str.maketrans("0123456789", "０１２３４５６７８９"))

    def _mrn_plain(self) -> str:
        return self._digits(8)

    def _bed(self) -> str:
        return str(self._rng.randint(1, 40))


_ENTITIES = {
    **dict.fromkeys(("date", "dob", "month_year", "da"), "DATE"), **dict.fromkeys(("age90", "age90_words"), "AGE"),
    **dict.fromkeys(("phone", "ext"), "PHONE"), **dict.fromkeys(("mrn", "acc", "serial", "policy", "ssn", "uid", "user", "crm", "cpf", "rg", "cns", "plate", "resident", "wide", "mrn_plain"), "ID"),
    "email": "EMAIL", **dict.fromkeys(("url", "host"), "URL"), "ip": "IP_ADDRESS", **dict.fromkeys(("city", "street", "zip"), "LOCATION"), "org": "ORGANIZATION",
}  # fmt: skip
