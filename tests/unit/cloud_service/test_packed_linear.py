"""Packed layers say what the layers they stand for say."""

from __future__ import annotations

import pytest
import torch

from cloud_service.engine.packed_linear import PackedLinear, pack_linears


def can_pack() -> bool:
    try:
        pack_linears(torch.nn.Sequential(torch.nn.Linear(8, 8, dtype=torch.bfloat16)))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return True


@pytest.mark.skipif(not can_pack(), reason="oneDNN packs no bfloat16 on this processor")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (1, 5), (2, 3, 70)])
def test_the_same_numbers(rows: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear = torch.nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16)
    inputs = torch.randn(*rows, 96, dtype=torch.bfloat16)
    with torch.inference_mode():
        expected, said = linear(inputs), PackedLinear(linear)(inputs)
    assert said.shape == expected.shape
    torch.testing.assert_close(said, expected, rtol=0.02, atol=0.02)


def test_only_bfloat16_on_the_processor_is_packed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
    assert pack_linears(module) == 0
    assert type(module[0]) is torch.nn.Linear
