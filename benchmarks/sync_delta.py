"""Deltas between a model and its light fine-tune, beside zstd's patch-from, bsdiff4 and the whole file.

The pairs are real: SmolLM2-135M, and the same model after a few steps on chest X-ray reports, once light and once lighter.
They are stored as float16 and bfloat16, as a fine-tune is published, and quantised anew from their floating-point weights,
int8 by row and int4 by groups of 32, with the old scales kept or with scales of their own. Two layers are compared, since
the peers need minutes for the whole. Beside them stands what a rank-8 adapter of the attention takes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.line import Line, Options
from partition.errors import ModelStoreError
from partition.release.delta import apply_delta, make_delta, zstd

MODEL = "smollm2-135m-instruct"
FINE_TUNES = {"light": (30, 2e-5), "lighter": (10, 5e-6)}  # steps, learning rate
NUM_LAYERS = 2
ADAPTER_RANK = 8
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
BSDIFF_BYTES = 1 << 20  # bsdiff4 needs 17 times the file in memory, and minutes
MAX_TOKENS = 128
Weights = Mapping[str, npt.NDArray[np.float32]]


def run(options: Options) -> Iterator[Line]:
    """Measure sizes in per cent of the file, and times."""
    for tune, (steps, rate) in FINE_TUNES.items():
        if options.quick and tune != "light":
            break
        if options.quick:
            steps = 4
        before, after = _fine_tune(options.data, steps, rate, 1 if options.quick else NUM_LAYERS)
        moved = np.sqrt(
            sum(float(((after[name] - before[name]) ** 2).sum()) for name in before)
            / sum(float((before[name] ** 2).sum()) for name in before)
        )
        case = f"relative change, {tune}: {steps} steps at {rate:g}"
        yield Line(case=case, ours=float(moved), unit="ratio", runs=1)
        for name, form in _FORMS.items():
            with tempfile.TemporaryDirectory() as folder:
                old, new = Path(folder) / "old.safetensors", Path(folder) / "new.safetensors"
                _write(old, form(before, before))
                _write(new, form(after, before))
                yield from _compare(f"{tune}, {name}", old, new, Path(folder) / "delta")
    yield _adapter_share(before)


def _adapter_share(weights: Weights) -> Line:
    """Return what A and B of every attention matrix take in float16, against the layers' own weights in float16."""
    whole = sum(values.size for values in weights.values())
    adapted = (values for name, values in weights.items() if name.split(".")[-2] in ATTENTION)
    adapter = sum(ADAPTER_RANK * sum(values.shape) for values in adapted)
    return Line(
        case=f"adapter of rank {ADAPTER_RANK} on the attention, float16",
        ours=100 * adapter / whole,
        unit="% of the file",
        runs=1,
    )


def _compare(name: str, old: Path, new: Path, delta: Path) -> Iterator[Line]:
    data, base = new.read_bytes(), old.read_bytes()
    began = time.monotonic()
    size = make_delta(old, new, delta)
    made_s = time.monotonic() - began
    began = time.monotonic()
    result = bytearray()
    apply_delta(old, delta, result.extend)
    applied_s = time.monotonic() - began
    assert result == data
    share = 100 * size.delta_bytes / len(data)
    for peer, theirs in (
        (f"zstd {zstd.zstd_version} --patch-from -19", _patch_from(base, data)),
        (f"zstd {zstd.zstd_version} -9, whole file", len(zstd.compress(data, 9))),
    ):
        yield Line(
            case=f"delta {name}",
            ours=share,
            theirs=100 * theirs / len(data),
            peer=peer,
            unit="% of the file",
            runs=1,
            less_is_better=True,
        )
    yield from _beside_bsdiff(name, base, data)
    yield Line(case=f"make delta {name}", ours=len(data) / 1e6 / made_s, unit="MB/s", runs=1)
    yield Line(case=f"apply delta {name}", ours=len(data) / 1e6 / applied_s, unit="MB/s", runs=1)


def _beside_bsdiff(name: str, base: bytes, data: bytes) -> Iterator[Line]:
    try:
        import bsdiff4

        peer = f"bsdiff4 {version('bsdiff4')}"
    except (ImportError, PackageNotFoundError):
        return
    middle = len(data) // 2
    one, two = (part[middle : middle + BSDIFF_BYTES] for part in (base, data))
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder) / "old.safetensors", Path(folder) / "new.safetensors"
        kind = next((kind for word, kind in _KINDS.items() if word in name), "I8")
        _write(old, {"slice": (kind, np.frombuffer(one, np.uint8))})
        _write(new, {"slice": (kind, np.frombuffer(two, np.uint8))})
        ours = make_delta(old, new, Path(folder) / "delta").delta_bytes
    yield Line(
        case=f"delta {name}, 1 MiB",
        ours=100 * ours / len(two),
        theirs=100 * len(bsdiff4.diff(one, two)) / len(two),
        peer=peer,
        unit="% of the file",
        runs=1,
        less_is_better=True,
    )


def _patch_from(base: bytes, data: bytes) -> int:
    options = {
        zstd.CompressionParameter.compression_level: 19,
        zstd.CompressionParameter.window_log: 27,
        zstd.CompressionParameter.enable_long_distance_matching: 1,
    }
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix
    return len(zstd.compress(data, options=options, zstd_dict=prefix))


def _fine_tune(data: Path, steps: int, rate: float, layers: int) -> tuple[Weights, Weights]:
    """Return the matrices of the middle layers before and after a few steps on reports."""
    import torch

    from cloud_service.config import ModelConfig
    from cloud_service.engine.model import load_model

    path = data / "cxr" / "train.jsonl"
    if not path.exists():
        raise ModelStoreError(f"{path}: no reports to train on; give their folder with --data")
    loaded = load_model(ModelConfig(name=MODEL, device="cpu", dtype="float32", threads=2))
    torch.manual_seed(0)
    module: Any = loaded.module
    names = [
        name
        for name, parameter in module.named_parameters()
        if parameter.dim() == 2 and any(f".{layer}." in name for layer in range(10, 10 + layers))
    ]
    before = {name: module.get_parameter(name).detach().numpy().copy() for name in names}
    with path.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(steps * 2), file, strict=False)]
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    module.train()
    for step in range(steps):
        optimizer.zero_grad()
        for text in texts[2 * step : 2 * step + 2]:
            ids = torch.tensor([loaded.tokenizer.encode(text)[:MAX_TOKENS]])
            module(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    after = {name: module.get_parameter(name).detach().numpy().copy() for name in names}
    return before, after


Tensors = dict[str, tuple[str, npt.NDArray[Any]]]


def _int8(weights: Weights, scales_of: Weights) -> Tensors:
    tensors: Tensors = {}
    for name, values in weights.items():
        scale = np.abs(scales_of[name]).max(axis=1, keepdims=True).astype(np.float16) / np.float16(
            127
        )
        scale = scale.astype(np.float32)
        tensors[name] = ("I8", np.clip(np.rint(values / scale), -127, 127).astype(np.int8))
        tensors[f"{name}.scale"] = ("F16", scale.astype(np.float16))
    return tensors


def _int4(weights: Weights, scales_of: Weights) -> Tensors:
    tensors: Tensors = {}
    for name, values in weights.items():
        groups = values.reshape(-1, 32)
        scale = np.abs(scales_of[name].reshape(-1, 32)).max(axis=1, keepdims=True) / 7
        scale = scale.astype(np.float16).astype(np.float32)
        codes = (np.clip(np.rint(groups / scale), -8, 7) + 8).astype(np.uint8)
        tensors[name] = ("U8", codes[:, :16] | codes[:, 16:] << 4)
        tensors[f"{name}.scale"] = ("F16", scale.astype(np.float16))
    return tensors


def _bfloat16(weights: Weights) -> Tensors:
    return {
        name: ("BF16", (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16))
        for name, values in weights.items()
    }


_KINDS = {"bfloat16": "BF16", "float16": "F16", "int4": "U8"}
_FORMS = {
    "float16": lambda weights, _: {
        name: ("F16", values.astype(np.float16)) for name, values in weights.items()
    },
    "bfloat16": lambda weights, _: _bfloat16(weights),
    "int8 by row, old scales kept": _int8,
    "int8 by row, own scales": lambda weights, _: _int8(weights, weights),
    "int4 by 32, old scales kept": _int4,
    "int4 by 32, own scales": lambda weights, _: _int4(weights, weights),
}


def _write(path: Path, tensors: Tensors) -> None:
    header, at = {}, 0
    for name, (dtype, values) in tensors.items():
        size = values.nbytes
        header[name] = {"dtype": dtype, "shape": [size], "data_offsets": [at, at + size]}
        at += size
    packed = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(packed).to_bytes(8, "little") + packed)
        for _, values in tensors.values():
            file.write(values.tobytes())
