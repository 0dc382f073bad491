"""What a model is made of: the numbers that decide its graph, whatever file they came from."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from partition.errors import ModelFileError
from partition.weights.gguf import GGUFFile
from partition.weights.rotary import RopeScaling, gguf_factors, gguf_scaling, stretch

# llama.cpp (src/llama-model.cpp, LLM_ARCH_GEMMA3) writes neither of the two into the file.
_GEMMA3_LOCAL_ROPE_THETA: Final = 10_000.0
_GEMMA3_GLOBAL_EVERY: Final = 6
_MAX_LAYERS: Final = 1024
_MAX_WIDTH: Final = 1 << 18


class Architecture(enum.StrEnum):
    """Families of decoders we build; GGUF calls a mistral ``llama``."""

    LLAMA = "llama"
    MISTRAL = "mistral"
    QWEN2 = "qwen2"
    QWEN3 = "qwen3"
    GEMMA3 = "gemma3"


class Activation(enum.StrEnum):
    """The gate of the feed-forward block."""

    SILU = "silu"
    GELU_TANH = "gelu_tanh"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Architecture and sizes of one decoder. Immutable and hashable."""

    architecture: Architecture
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    context_tokens: int  # what it was trained for
    norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    rope_factors: tuple[float, ...] | None = (
        None  # each pair's frequency is divided by its own; as GGUF has llama3's scaling
    )
    rope_local_theta: float | None = None  # of sliding layers; None: as the others, unscaled
    sliding_window: int | None = None  # positions a sliding layer sees, itself included
    sliding_layers: frozenset[int] = frozenset()
    attention_bias: bool = False  # of the query, key and value projections
    output_bias: bool = False  # of the attention's output projection
    qk_norm: bool = False  # a norm over each head of query and key
    post_norms: bool = False  # norms behind attention and feed-forward, as in gemma
    norm_offset: float = 0.0  # added to stored norm weights; 1 for gemma
    embedding_scale: float = 1.0
    attention_scale: float
    activation: Activation = Activation.SILU
    tied_head: bool = False

    def __post_init__(self) -> None:
        sizes = (
            self.hidden_size,
            self.intermediate_size,
            self.num_heads * self.head_dim,
            self.num_kv_heads * self.head_dim,
        )
        sound = (
            1 <= self.num_layers <= _MAX_LAYERS
            and all(1 <= size <= _MAX_WIDTH for size in sizes)
            and 1 <= self.vocab_size <= 1 << 22
            and 1 <= self.context_tokens <= 1 << 24
            and self.num_heads % self.num_kv_heads == 0
            and self.head_dim % 2 == 0
            and self.norm_epsilon >= 0
            and self.rope_theta > 0
            and (
                self.rope_factors is None
                or (
                    len(self.rope_factors) == self.head_dim // 2
                    and all(math.isfinite(one) and one > 0 for one in self.rope_factors)
                )
            )
        )
        if not sound:
            raise ModelFileError(
                f"the sizes of this {self.architecture} model make no sense; fetch its file again"
            )

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, or of all value heads."""
        return self.num_kv_heads * self.head_dim

    def kv_bytes_per_token(self, num_layers: int, bytes_per_value: int) -> int:
        """Bytes that one position takes in the caches of so many layers."""
        return 2 * self.kv_size * bytes_per_value * num_layers

    def is_sliding(self, layer: int) -> bool:
        """Whether a layer sees only the last ``sliding_window`` positions."""
        return self.sliding_window is not None and layer in self.sliding_layers

    def rotary_frequencies(self, layer: int) -> list[float]:
        """Radians per position of each pair of a head's values, ``head_dim / 2`` of them, for one layer."""
        local = self.rope_local_theta if self.is_sliding(layer) else None
        theta = self.rope_theta if local is None else local
        plain = [theta ** (-2.0 * i / self.head_dim) for i in range(self.head_dim // 2)]
        if local is None and self.rope_factors is not None:
            return [one / factor for one, factor in zip(plain, self.rope_factors, strict=True)]
        if self.rope_scaling is None or local is not None:
            return plain
        return [stretch(frequency, self.rope_scaling) for frequency in plain]

    @classmethod
    def from_gguf(cls, file: GGUFFile) -> ModelSpec:
        """Read the metadata of a GGUF file.

        Raises:
            ModelFileError: A value is missing or impossible, or the architecture is not one we build.
        """
        name = file.text("general.architecture")
        if name not in set(Architecture) - {Architecture.MISTRAL}:
            raise ModelFileError(
                f"{file.path}: architecture {name[:32]!r} is not one we build; choose a llama, mistral, qwen2, qwen3 or gemma3"
            )
        architecture = Architecture(name)
        hidden = file.integer(f"{name}.embedding_length")
        heads = file.integer(f"{name}.attention.head_count")
        if heads < 1 or "token_embd.weight" not in file.tensors:
            raise ModelFileError(f"{file.path}: it has no heads or no embedding; fetch it again")
        head_dim = file.integer(f"{name}.attention.key_length", hidden // heads)
        layers = file.integer(f"{name}.block_count")
        is_gemma = architecture is Architecture.GEMMA3
        window = file.integer(f"{name}.attention.sliding_window", 0) or None
        sliding = range(0)
        if window is not None:
            sliding = range(min(layers, _MAX_LAYERS))
        return cls(
            architecture=architecture,
            num_layers=layers,
            hidden_size=hidden,
            intermediate_size=file.integer(f"{name}.feed_forward_length"),
            num_heads=heads,
            num_kv_heads=max(1, file.integer(f"{name}.attention.head_count_kv", heads)),
            head_dim=head_dim,
            vocab_size=file.tensors["token_embd.weight"].shape[0],
            context_tokens=file.integer(f"{name}.context_length"),
            norm_epsilon=file.number(f"{name}.attention.layer_norm_rms_epsilon"),
            rope_theta=file.number(f"{name}.rope.freq_base", 10_000.0),
            rope_scaling=gguf_scaling(file, name),
            rope_factors=gguf_factors(file),
            rope_local_theta=_GEMMA3_LOCAL_ROPE_THETA if is_gemma else None,
            sliding_window=window,
            sliding_layers=frozenset(
                layer for layer in sliding if not is_gemma or (layer + 1) % _GEMMA3_GLOBAL_EVERY
            ),
            attention_bias="blk.0.attn_q.bias" in file.tensors,
            output_bias="blk.0.attn_output.bias" in file.tensors,
            qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
            post_norms=is_gemma,
            norm_offset=1.0 if is_gemma else 0.0,
            embedding_scale=math.sqrt(hidden) if is_gemma else 1.0,
            attention_scale=1.0 / math.sqrt(head_dim),
            activation=Activation.GELU_TANH if is_gemma else Activation.SILU,
            tied_head="output.weight" not in file.tensors,
        )

    @classmethod
    def from_folder(cls, folder: Path) -> ModelSpec:
        """Read the ``config.json`` of a folder as the Hugging Face hub has them; errors as for :meth:`from_gguf`."""
        path = folder / "config.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ModelFileError(
                f"{path}: cannot be read as JSON ({type(error).__name__}); give a folder with config.json"
            ) from error
        return cls.from_hf_config(document)

    @classmethod
    def from_hf_config(cls, document: Mapping[str, Any]) -> ModelSpec:
        """Read a configuration in the words of transformers, old and new; errors as for :meth:`from_gguf`."""
        if "text_config" in document:
            document = document["text_config"]
        try:
            return _HFConfig.model_validate(document).to_spec()
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ModelFileError(
                f"config.json, key {key!r}: {first['msg']}; choose a llama, mistral, qwen2, qwen3 or gemma3"
            ) from error

    def to_hf_config(self) -> dict[str, Any]:
        """The same in the words of transformers 5, for ``AutoConfig.for_model(**spec.to_hf_config())``."""
        is_gemma = self.architecture is Architecture.GEMMA3
        rope: dict[str, Any] = {"rope_type": "default", "rope_theta": self.rope_theta}
        if self.rope_scaling is not None:
            rope |= {"rope_type": self.rope_scaling.kind, "factor": self.rope_scaling.factor}
            if self.rope_scaling.kind == "llama3":
                rope |= {
                    "low_freq_factor": self.rope_scaling.low_frequency_factor,
                    "high_freq_factor": self.rope_scaling.high_frequency_factor,
                    "original_max_position_embeddings": self.rope_scaling.original_context_tokens,
                }
        if self.rope_factors is not None:
            # The one kind of transformers that takes a factor for each pair; the same short and long, and nothing else scaled.
            factors = list(self.rope_factors)
            rope |= {"rope_type": "longrope", "short_factor": factors, "long_factor": factors}
            rope |= {"factor": 1.0, "attention_factor": 1.0}
            rope |= {"original_max_position_embeddings": self.context_tokens}
        if is_gemma:
            local = {"rope_type": "default", "rope_theta": self.rope_local_theta or self.rope_theta}
            rope = {"full_attention": rope, "sliding_attention": local}
        config: dict[str, Any] = {
            "model_type": "gemma3_text" if is_gemma else self.architecture.value,
            "num_hidden_layers": self.num_layers,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "max_position_embeddings": self.context_tokens,
            "rms_norm_eps": self.norm_epsilon,
            "rope_parameters": rope,
            "tie_word_embeddings": self.tied_head,
        }
        if self.architecture is Architecture.MISTRAL:
            config["sliding_window"] = self.sliding_window
        elif self.architecture is Architecture.QWEN2 or self.architecture is Architecture.QWEN3:
            config["use_sliding_window"] = self.sliding_window is not None
            config["sliding_window"] = self.sliding_window
            config["layer_types"] = self._layer_types()
        elif is_gemma:
            config |= {
                "sliding_window": self.sliding_window,
                "layer_types": self._layer_types(),
                "query_pre_attn_scalar": round(self.attention_scale**-2),
                "hidden_activation": "gelu_pytorch_tanh",
            }
        if self.architecture in (Architecture.LLAMA, Architecture.QWEN3):
            config["attention_bias"] = self.attention_bias
        return config

    def _layer_types(self) -> list[str]:
        return [
            "sliding_attention" if self.is_sliding(layer) else "full_attention"
            for layer in range(self.num_layers)
        ]


Positive = Annotated[int, Field(ge=1)]


class _HFRope(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    rope_type: Literal["default", "linear", "llama3"] = "default"
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    low_freq_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    high_freq_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    original_max_position_embeddings: Positive = 8192

    def to_scaling(self) -> RopeScaling | None:
        if self.rope_type == "default":
            return None
        return RopeScaling(
            kind=self.rope_type,
            factor=self.factor,
            low_frequency_factor=self.low_freq_factor,
            high_frequency_factor=self.high_freq_factor,
            original_context_tokens=self.original_max_position_embeddings,
        )


class _HFRopes(BaseModel):
    """Gemma's form: one table for each kind of layer."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True, frozen=True)
    full_attention: _HFRope
    sliding_attention: _HFRope


class _HFConfig(BaseModel):
    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True, frozen=True)
    model_type: Literal["llama", "mistral", "qwen2", "qwen3", "gemma3_text"]
    num_hidden_layers: Positive
    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive | None = None
    head_dim: Positive | None = None
    vocab_size: Positive
    max_position_embeddings: Positive
    rms_norm_eps: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6
    rope_theta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10_000.0
    rope_local_base_freq: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10_000.0
    rope_parameters: _HFRopes | _HFRope | None = None
    rope_scaling: _HFRope | None = None
    sliding_window: Positive | None = None
    use_sliding_window: bool = False
    layer_types: tuple[Literal["full_attention", "sliding_attention"], ...] | None = None
    sliding_window_pattern: Positive = _GEMMA3_GLOBAL_EVERY
    attention_bias: bool = False
    mlp_bias: Literal[False] = False
    query_pre_attn_scalar: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    final_logit_softcapping: None = None
    attn_logit_softcapping: None = None
    tie_word_embeddings: bool | None = None  # absent: the default of the architecture

    def to_spec(self) -> ModelSpec:
        is_gemma = self.model_type == "gemma3_text"
        architecture = Architecture.GEMMA3 if is_gemma else Architecture(self.model_type)
        is_qwen2 = architecture is Architecture.QWEN2
        head_dim = self.head_dim or (
            256 if is_gemma else self.hidden_size // self.num_attention_heads
        )
        rope = self._rope("full_attention")
        window = self.sliding_window
        if architecture is Architecture.LLAMA:
            window = None
        if architecture in (Architecture.QWEN2, Architecture.QWEN3) and not self.use_sliding_window:
            window = None
        return ModelSpec(
            architecture=architecture,
            num_layers=self.num_hidden_layers,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads or self.num_attention_heads,
            head_dim=head_dim,
            vocab_size=self.vocab_size,
            context_tokens=self.max_position_embeddings,
            norm_epsilon=self.rms_norm_eps,
            rope_theta=rope.rope_theta or self.rope_theta,
            rope_scaling=rope.to_scaling(),
            rope_local_theta=self._rope("sliding_attention").rope_theta or self.rope_local_base_freq
            if is_gemma
            else None,
            sliding_window=window,
            sliding_layers=self._sliding_layers(is_gemma) if window else frozenset(),
            attention_bias=is_qwen2 or self.attention_bias,
            output_bias=self.attention_bias and not is_qwen2,
            qk_norm=is_gemma or architecture is Architecture.QWEN3,
            post_norms=is_gemma,
            norm_offset=1.0 if is_gemma else 0.0,
            embedding_scale=math.sqrt(self.hidden_size) if is_gemma else 1.0,
            attention_scale=(self.query_pre_attn_scalar or (256.0 if is_gemma else head_dim))
            ** -0.5,
            activation=Activation.GELU_TANH if is_gemma else Activation.SILU,
            tied_head=is_gemma if self.tie_word_embeddings is None else self.tie_word_embeddings,
        )

    def _rope(self, kind: Literal["full_attention", "sliding_attention"]) -> _HFRope:
        if isinstance(self.rope_parameters, _HFRopes):
            return (
                self.rope_parameters.full_attention
                if kind == "full_attention"
                else self.rope_parameters.sliding_attention
            )
        if kind == "sliding_attention":
            return _HFRope()
        return self.rope_parameters or self.rope_scaling or _HFRope()

    def _sliding_layers(self, is_gemma: bool) -> frozenset[int]:
        if self.layer_types is not None:
            kinds = enumerate(self.layer_types[: self.num_hidden_layers])
            return frozenset(layer for layer, kind in kinds if kind == "sliding_attention")
        every = range(min(self.num_hidden_layers, _MAX_LAYERS))
        if is_gemma:
            return frozenset(layer for layer in every if (layer + 1) % self.sliding_window_pattern)
        return frozenset(every)
