"""Text burned into pictures: masked where a rule for the device says where it is, otherwise the picture stays.

Nothing looks at the picture itself. A rule is a promise of the operator about one kind of device.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edge_agent.dicom.reader import PARSE_ERRORS
from edge_agent.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pydicom import Dataset

RULES = Path(__file__).with_name("burned_in.toml")
# Pictures of these kinds usually carry text, whatever the header says of it.
TALKING_MODALITIES = frozenset({"ES", "GM", "OP", "OT", "SC", "SM", "US", "XC"})
_PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelRule:
    """Which pictures carry text where."""

    name: str
    modality: str
    manufacturer: str = ""  # beginning, any case
    model: str = ""
    series: str = ""
    image_type: tuple[str, ...] = ()  # first values of ImageType
    rows: int | None = None
    columns: int | None = None
    mask: tuple[tuple[int, int, int, int], ...] = ()  # left, top, right, bottom; half-open


def load_rules(path: Path = RULES) -> tuple[PixelRule, ...]:
    """Read a file of rules.

    Raises:
        ConfigError: The file cannot be read, or a rule is wrong; the message names file and key.
    """
    try:
        file = _RulesFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path}: no readable TOML ({type(error).__name__}); correct it"
        ) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}, key {key!r}: {first['msg']}; correct it") from error
    return tuple(PixelRule(**rule.model_dump()) for rule in file.rule)


def clean_pixels(dataset: Dataset, rules: tuple[PixelRule, ...]) -> bool:
    """Mask text in the pictures of a dataset, in place; decides by its header, so the header must still be whole.

    Returns:
        Whether anything was masked.

    Raises:
        InputError: Nobody promises that the pictures carry no text, or they cannot be decoded to be masked.
    """
    if not any(keyword in dataset for keyword in _PIXEL_KEYWORDS):
        return False
    if str(dataset.get("RecognizableVisualFeatures", "")).strip().upper() == "YES":
        raise InputError("the picture shows a recognizable face; it stays on this device")
    burned_in = str(dataset.get("BurnedInAnnotation", "")).strip().upper()
    modality = str(dataset.get("Modality", "")).strip().upper()
    rule = next((rule for rule in rules if _applies(rule, dataset)), None)
    if rule is not None and rule.mask:
        _mask(dataset, rule)
        return True
    if burned_in == "NO" and modality not in TALKING_MODALITIES:
        return False
    if rule is not None and burned_in != "YES":
        return False
    raise InputError(
        "the picture may carry text, and no rule says where; "
        "add a rule for this device to the file of burned-in regions, or keep the file here"
    )


def _applies(rule: PixelRule, dataset: Dataset) -> bool:
    def begins(keyword: str, beginning: str) -> bool:
        return str(dataset.get(keyword, "")).strip().casefold().startswith(beginning.casefold())

    image_type = dataset.get("ImageType") or ()
    kinds = [image_type] if isinstance(image_type, str) else [str(kind) for kind in image_type]
    return (
        str(dataset.get("Modality", "")).strip().upper() == rule.modality
        and begins("Manufacturer", rule.manufacturer)
        and begins("ManufacturerModelName", rule.model)
        and begins("SeriesDescription", rule.series)
        and [kind.upper() for kind in kinds[: len(rule.image_type)]] == list(rule.image_type)
        and rule.rows in (None, dataset.get("Rows"))
        and rule.columns in (None, dataset.get("Columns"))
    )


def _mask(dataset: Dataset, rule: PixelRule) -> None:
    """Blacken the rectangles of a rule in every frame, and store the pixels uncompressed."""
    try:
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            dataset.decompress(generate_instance_uid=False)
        pixels = dataset.pixel_array.copy()
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        frames = pixels.reshape(
            int(dataset.get("NumberOfFrames") or 1), rows, columns, int(dataset.SamplesPerPixel)
        )
        for left, top, right, bottom in rule.mask:
            frames[:, top:bottom, left:right] = 0
        dataset.set_pixel_data(
            pixels,
            dataset.PhotometricInterpretation,
            int(dataset.BitsStored),
            generate_instance_uid=False,
        )
    except PARSE_ERRORS:
        raise InputError(
            "the picture cannot be decoded to mask the text in it; export it uncompressed"
        ) from None


_Pixel = Annotated[int, Field(ge=0, le=65_535)]


class _RuleSection(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    name: str
    modality: Annotated[str, Field(pattern=r"^[A-Z]{2,16}$")]
    manufacturer: str = ""
    model: str = ""
    series: str = ""
    image_type: tuple[str, ...] = ()
    rows: Annotated[int, Field(gt=0)] | None = None
    columns: Annotated[int, Field(gt=0)] | None = None
    mask: tuple[tuple[_Pixel, _Pixel, _Pixel, _Pixel], ...]


class _RulesFile(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)

    rule: tuple[_RuleSection, ...]
