"""A low-rank adapter (LoRA) over the weights of its base, as PEFT saves them: ``adapter_config.json`` and safetensors.

Each adapted matrix is W + s B A with s = alpha / r, or alpha / sqrt(r) for rank-stabilised adapters (Hu et al. 2022, eq. 3;
Kalajdzievski 2023). It is added in float32, *before* the stage quantises: an adapted model then runs as fast and needs as
much memory as its base, its codes are rounded once, and the golden outputs of its release are those of exactly this sum.
What it costs is a stage built anew, which the gate does in its own process while the model before answers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.errors import ModelFileError
from partition.weights.block_formats import QuantizedRows
from partition.weights.safetensors_folder import read_floats
from partition.weights.weight_shapes import weight_shape
from partition.weights.weight_source import WeightSource

CONFIG: Final = "adapter_config.json"
TENSORS: Final = "adapter_model.safetensors"
_NAME: Final = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_MAX_RANK: Final = 4096

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to one matrix."""

    down: Matrix  # A: (rank, inputs)
    up: Matrix  # B: (outputs, rank)
    scale: float

    def added(self) -> Matrix:
        """The sum's second term, (outputs, inputs)."""
        result: Matrix = (self.up @ self.down) * np.float32(self.scale)
        return result


class AdaptedWeights:
    """Fills :class:`partition.weights.weight_source.WeightSource`. Immutable, so safe to share between threads."""

    def __init__(self, base: WeightSource, folder: Path, changes: Mapping[str, LowRank]) -> None:
        self.path = base.path
        self.paths: tuple[Path, ...] = (*base.paths, folder)
        self.spec = base.spec
        self._base = base
        self._changes = dict(changes)

    @classmethod
    def open(cls, base: WeightSource, folder: Path) -> AdaptedWeights:
        """Read an adapter and fit it to its base.

        Args:
            base: The weights that it was trained on.
            folder: Of ``adapter_config.json`` and ``adapter_model.safetensors``.

        Raises:
            ModelFileError: It is damaged, of a kind that is not built here, or made for another model.
        """
        config = _read_config(folder)
        halves: dict[str, dict[str, Matrix]] = {}
        for name, tensor in read_floats(folder / TENSORS).items():
            match = _NAME.fullmatch(name)
            if match is None:
                raise ModelFileError(
                    f"{folder}: holds {name!r}, which is no low-rank matrix; "
                    "train with bias none and no modules_to_save"
                )
            halves.setdefault(f"{match['module']}.weight", {})[match["side"]] = tensor
        known = frozenset(base.names())
        changes = {}
        for name, pair in halves.items():
            if name not in known:
                raise ModelFileError(
                    f"{folder}: adapts {name!r}, which the base does not have; take its own base"
                )
            changes[name] = _fit(folder, config, weight_shape(base.spec, name), pair)
        if not changes:
            raise ModelFileError(f"{folder}: adapts nothing; train it again")
        return cls(base, folder, changes)

    def names(self) -> tuple[str, ...]:
        """See :class:`partition.weights.weight_source.WeightSource`."""
        return self._base.names()

    def float32(self, name: str) -> Matrix:
        """See :class:`partition.weights.weight_source.WeightSource`."""
        values = self._base.float32(name)
        change = self._changes.get(name)
        return values if change is None else values + change.added()

    def quantized(self, name: str) -> QuantizedRows | None:
        """See :class:`partition.weights.weight_source.WeightSource`; an adapted matrix is no sum of stored integers."""
        return None if name in self._changes else self._base.quantized(name)


def _fit(
    folder: Path, config: _Config, shape: tuple[int, ...], pair: Mapping[str, Matrix]
) -> LowRank:
    outputs, inputs = shape if len(shape) == 2 else (0, 0)
    wanted = {"A": (config.r, inputs), "B": (outputs, config.r)}
    if {side: half.shape for side, half in pair.items()} != wanted:
        raise ModelFileError(
            f"{folder}: a matrix has another shape or rank than its base; take its own base"
        )
    if not all(np.isfinite(half).all() for half in pair.values()):
        raise ModelFileError(f"{folder}: holds values that are no numbers; train it again")
    rank = math.sqrt(config.r) if config.use_rslora else config.r
    return LowRank(pair["A"], pair["B"], config.lora_alpha / rank)


class _Config(BaseModel):
    # What PEFT writes besides does not change the sum; what would is listed, and refused.
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1, le=_MAX_RANK)]
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    use_rslora: bool = False
    use_dora: Literal[False] = False
    fan_in_fan_out: Literal[False] = False
    bias: Literal["none"] = "none"
    modules_to_save: Annotated[list[str], Field(max_length=0)] | None = None
    layer_replication: Annotated[list[int], Field(max_length=0)] | None = None
    rank_pattern: Annotated[dict[str, int], Field(max_length=0)] = {}
    alpha_pattern: Annotated[dict[str, float], Field(max_length=0)] = {}


def _read_config(folder: Path) -> _Config:
    try:
        return _Config.model_validate_json((folder / CONFIG).read_bytes())
    except OSError as error:
        raise ModelFileError(
            f"{folder / CONFIG}: cannot be read ({error.strerror}); an adapter is a folder as PEFT saves it"
        ) from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ModelFileError(
            f"{folder / CONFIG}: {where} is of a kind that is not built here; train a plain LoRA"
        ) from error
