"""The explicit list of recognizers; a test pins it. Nothing is found, loaded or downloaded by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from edge_agent.anonymize.alignment import MatchText
from edge_agent.anonymize.recognizers.ages import find_ages
from edge_agent.anonymize.recognizers.chinese_persons import find_chinese_persons
from edge_agent.anonymize.recognizers.dates import find_dates
from edge_agent.anonymize.recognizers.headers import (
    find_dicom_elements,
    find_hl7_fields,
    find_table_cells,
)
from edge_agent.anonymize.recognizers.labelled import find_labelled
from edge_agent.anonymize.recognizers.network import (
    find_addresses,
    find_emails,
    find_hardware,
    find_urls,
)
from edge_agent.anonymize.recognizers.numbers import (
    find_national_numbers,
    find_record_numbers,
    find_uids,
)
from edge_agent.anonymize.recognizers.organizations import (
    find_chinese_organizations,
    find_organizations,
)
from edge_agent.anonymize.recognizers.persons import find_persons
from edge_agent.anonymize.recognizers.phones import find_phones
from edge_agent.anonymize.recognizers.placed_persons import find_placed_persons
from edge_agent.anonymize.recognizers.places import (
    find_chinese_places,
    find_postcodes,
    find_residences,
    find_streets,
    find_towns,
)
from edge_agent.anonymize.recognizers.spoken_names import find_spoken_names
from edge_agent.anonymize.span import Span


@dataclass(frozen=True, slots=True)
class Recognizer:
    """One way of finding spans in a text for matching."""

    name: str
    find: Callable[[MatchText], Iterable[Span]]
    han_only: bool = False  # does nothing in a text without Han characters


RECOGNIZERS: tuple[Recognizer, ...] = (
    Recognizer("labelled", find_labelled),
    Recognizer("dicom-elements", find_dicom_elements),
    Recognizer("hl7-fields", find_hl7_fields),
    Recognizer("table-cells", find_table_cells),
    Recognizer("emails", find_emails),
    Recognizer("urls", find_urls),
    Recognizer("addresses", find_addresses),
    Recognizer("hardware", find_hardware),
    Recognizer("phones", find_phones),
    Recognizer("dates", find_dates),
    Recognizer("ages", find_ages),
    Recognizer("uids", find_uids),
    Recognizer("national-numbers", find_national_numbers),
    Recognizer("record-numbers", find_record_numbers),
    Recognizer("streets", find_streets),
    Recognizer("residences", find_residences),
    Recognizer("postcodes", find_postcodes),
    Recognizer("towns", find_towns),
    Recognizer("organizations", find_organizations),
    Recognizer("persons", find_persons),
    Recognizer("placed-persons", find_placed_persons),
    Recognizer("spoken-names", find_spoken_names),
    Recognizer("chinese-persons", find_chinese_persons, han_only=True),
    Recognizer("chinese-places", find_chinese_places, han_only=True),
    Recognizer("chinese-organizations", find_chinese_organizations, han_only=True),
)


def recognize(
    document: MatchText, recognizers: tuple[Recognizer, ...] = RECOGNIZERS
) -> Iterator[Span]:
    """Everything that the recognizers find, in their order; spans may overlap."""
    han = any("\u4e00" <= c <= "\u9fff" for c in document.text)
    for recognizer in recognizers:
        if han or not recognizer.han_only:
            yield from recognizer.find(document)
