"""How rotary frequencies are stretched for contexts longer than a model was first trained for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from partition.errors import ModelFileError
from partition.weights.gguf import GGUFFile


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for long contexts."""

    kind: Literal["linear", "llama3"]
    factor: float
    low_frequency_factor: float = 1.0  # the rest is for llama3 only
    high_frequency_factor: float = 4.0
    original_context_tokens: int = 8192


def stretch(frequency: float, scaling: RopeScaling) -> float:
    """A frequency, in radians per position, as the scaling leaves it."""
    if scaling.kind == "linear":
        return frequency / scaling.factor
    # Llama 3.1: long waves are stretched, short ones kept, the band between is blended (transformers modeling_rope_utils).
    wave = 2 * math.pi / frequency
    longest = scaling.original_context_tokens / scaling.low_frequency_factor
    shortest = scaling.original_context_tokens / scaling.high_frequency_factor
    if wave < shortest:
        return frequency
    if wave > longest:
        return frequency / scaling.factor
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    keep = (scaling.original_context_tokens / wave - scaling.low_frequency_factor) / span
    return (1 - keep) * frequency / scaling.factor + keep * frequency


def gguf_factors(file: GGUFFile) -> tuple[float, ...] | None:
    """What the frequency of each pair is divided by, where a GGUF file says so."""
    # What convert_hf_to_gguf.py of llama.cpp makes of llama3's scaling: a divisor for the frequency of each pair.
    tensor = file.tensors.get("rope_freqs.weight")
    return None if tensor is None else tuple(tensor.to_float32().reshape(-1).tolist())


def gguf_scaling(file: GGUFFile, name: str) -> RopeScaling | None:
    """The scaling that a GGUF file of an architecture names.

    Raises:
        ModelFileError: It is not one we build.
    """
    kind = file.text(f"{name}.rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind != "linear":
        raise ModelFileError(
            f"{file.path}: rotary scaling {kind[:32]!r} is not one we build; use the safetensors folder of the model"
        )
    factor = file.number(f"{name}.rope.scaling.factor")
    if factor <= 0:
        raise ModelFileError(f"{file.path}: its rotary scaling makes no sense; fetch it again")
    return RopeScaling(kind="linear", factor=factor)
