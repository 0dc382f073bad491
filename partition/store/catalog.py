"""Which models there are: ``models.toml``, each named once, with its hash and where it may be had.

[[model]]
name = "smollm2-135m-instruct"
file = "SmolLM2-135M-Instruct.Q4_1.gguf"   # or the name of a folder, with folder = true
sha256 = "..."                             # decides; never the place it came from
bytes = 98362432
licence = "Apache-2.0"
layers = 30                                # of a decoder; left out for everything else

[[model.source]]                           # tried in order, after the local folders
hub = { repository = "owner/name", file = "..." }

[[model.source]]
wheels = [{ requirement = "name==1.0", member = "name/file.gguf", sha256 = "..." }]
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from partition.errors import ModelStoreError

CATALOG = Path(__file__).with_name("models.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """One file of a Hugging Face repository."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class WheelPart:
    """One member of one wheel: a file, or every file under a folder when ``member`` ends in a slash."""

    requirement: str  # "name==version", or the https address of a wheel
    member: str
    sha256: str | None = None  # of the wheel

    @property
    def label(self) -> str:
        """What people call it: the requirement without the way to it."""
        return self.requirement.rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheels:
    """Wheels that carry the model: the parts of a file, in order, or one folder."""

    parts: tuple[WheelPart, ...]
    exclude: tuple[str, ...] = ()  # patterns of files in a folder that are not part of the model

    @property
    def label(self) -> str:
        """What people call it."""
        more = f" and {len(self.parts) - 1} more" if len(self.parts) > 1 else ""
        return f"wheel {self.parts[0].label}{more}"


Source = HubFile | Wheels


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    r"""One model: what it is called, what its bytes hash to, and where it may be had.

    The hash of a folder is the SHA-256 over one line ``<sha256 of the file>␠␠<path>\n`` for each file, sorted by path.
    """

    name: str
    file: str  # name of the file or folder
    sha256: str
    bytes: int  # of the file, or of all files of the folder
    licence: str
    layers: int | None  # decoder layers; None: no decoder
    sources: tuple[Source, ...]
    is_folder: bool = False


def load_catalog(path: Path = CATALOG) -> dict[str, ModelEntry]:
    """Read and check a catalog of models.

    Raises:
        ModelStoreError: The file is missing, is no TOML, or an entry is wrong; the message names file and key.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        file = _CatalogFile.model_validate(document)
    except (OSError, UnicodeDecodeError) as error:
        raise ModelStoreError(
            f"{path}: cannot be read as UTF-8 text ({type(error).__name__}); correct the path of the catalog"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ModelStoreError(f"{path}: no valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "file"
        raise ModelStoreError(f"{path}, key {key!r}: {first['msg']}") from error
    return {model.name: model.to_entry() for model in file.model}


_SHA256 = r"^[0-9a-f]{64}$"
_FILE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"  # no separators: it becomes a path in the cache
_MEMBER = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*/?$"
# No leading hyphen, because it becomes an argument of pip.
_REQUIREMENT = r"^([A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!-]+|https://[^\s]+\.whl)$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)


class _HubSection(_Section):
    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    file: Annotated[str, Field(pattern=_MEMBER)]
    revision: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] = "main"


class _WheelSection(_Section):
    requirement: Annotated[str, Field(pattern=_REQUIREMENT)]
    member: Annotated[str, Field(pattern=_MEMBER)]
    sha256: Annotated[str, Field(pattern=_SHA256)] | None = None


class _SourceSection(_Section):
    hub: _HubSection | None = None
    wheels: tuple[_WheelSection, ...] = ()
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_one_source(self) -> Self:
        if (self.hub is None) == (not self.wheels):
            raise ValueError("a source is either `hub` or `wheels`")
        return self

    def to_source(self) -> Source:
        if self.hub is not None:
            return HubFile(**self.hub.model_dump())
        parts = tuple(WheelPart(**wheel.model_dump()) for wheel in self.wheels)
        return Wheels(parts=parts, exclude=self.exclude)


class _ModelSection(_Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    file: Annotated[str, Field(pattern=_FILE_NAME)]
    sha256: Annotated[str, Field(pattern=_SHA256)]
    bytes: Annotated[int, Field(gt=0)]
    licence: Annotated[str, Field(min_length=1)]
    layers: Annotated[int, Field(gt=0)] | None = None
    folder: bool = False
    source: tuple[_SourceSection, ...] = ()

    @model_validator(mode="after")
    def _sources_fit(self) -> Self:
        for source in self.source:
            if self.folder and (source.hub is not None or len(source.wheels) != 1):
                raise ValueError("a folder comes from `wheels` with exactly one wheel")
            if any(wheel.member.endswith("/") != self.folder for wheel in source.wheels):
                raise ValueError("`member` ends in a slash for a folder, and only then")
        return self

    def to_entry(self) -> ModelEntry:
        return ModelEntry(
            name=self.name,
            file=self.file,
            sha256=self.sha256,
            bytes=self.bytes,
            licence=self.licence,
            layers=self.layers,
            sources=tuple(source.to_source() for source in self.source),
            is_folder=self.folder,
        )


class _CatalogFile(_Section):
    model: tuple[_ModelSection, ...]

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [model.name for model in self.model]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"each model has one entry; given twice: {', '.join(twice)}")
        return self
