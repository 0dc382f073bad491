"""How both programs read their configuration: defaults < TOML < environment < flags, merged once.

A key that nobody knows is an error in every layer, also in the environment, where pydantic-settings would pass over it. Paths
in a file are relative to the file. A message names file and key, never a value.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from partition.errors import SettingsError

NESTED = "__"  # between the parts of a nested key in a variable's name

S = TypeVar("S", bound="Settings")
KeyPath = tuple[str, ...]


class Settings(BaseSettings):
    """Base of both configurations; every source but the constructor's arguments is left to :func:`load_settings`."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take the merged mapping alone."""
        return (init_settings,)


def load_settings(
    model: type[S],
    path: Path | None,
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    paths: Collection[KeyPath],
) -> S:
    """Merge the four layers.

    Args:
        model: What to make; its ``env_prefix`` says which variables are its own.
        path: The TOML file; None: no file.
        flags: What the command line set, nested like the file; an unset flag is absent.
        environment: Variables of the process.
        paths: Keys whose values are paths, or lists of paths.

    Raises:
        SettingsError: The file cannot be read, or a key, value or variable is wrong.
    """
    merged = _with_paths_from(path.resolve().parent, _read(path), paths) if path else {}
    _merge(merged, _from_environment(model, environment))
    _merge(merged, flags)
    try:
        return model(**merged)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{path or 'configuration'}{f', key {key!r}' if key else ''}"
        message = first["msg"].removeprefix("Value error, ")
        raise SettingsError(f"{where}: {message}; correct it") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be read ({error.strerror}); give an existing file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: no valid TOML: {error}") from error


def _with_paths_from(
    folder: Path, document: dict[str, Any], paths: Collection[KeyPath]
) -> dict[str, Any]:
    def visit(value: Any, keys: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: visit(inner, (*keys, key)) for key, inner in value.items()}
        if keys in paths and isinstance(value, str):
            return str(folder / value)
        if keys in paths and isinstance(value, list):
            return [str(folder / inner) if isinstance(inner, str) else inner for inner in value]
        return value

    return {key: visit(value, (key,)) for key, value in document.items()}


def _from_environment(model: type[Settings], environment: Mapping[str, str]) -> dict[str, Any]:
    prefix = model.model_config["env_prefix"]
    known = set(_variable_names(model, prefix))
    for name in sorted(environment):
        if name.upper().startswith(prefix) and name.upper() not in known:
            raise SettingsError(
                f"environment variable {name}: no such setting; correct or unset it"
            )
    # pydantic-settings reads the process's environment; through its source a mapping can be given instead.
    source = EnvSettingsSource(model)
    source.env_vars = {name.lower(): value for name, value in environment.items()}
    try:
        values: dict[str, Any] = source()
    except ValueError as error:  # of a variable that should be JSON and is not
        raise SettingsError(f"a {prefix} variable is no valid JSON; correct it") from error
    return values


def _variable_names(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        variable = prefix + name.upper()
        yield variable
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variable_names(field.annotation, variable + NESTED)


def _merge(target: dict[str, Any], source: Mapping[str, Any]) -> None:
    for key, value in source.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value
