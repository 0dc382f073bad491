"""Trees of positions: who sees whom, at which depth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partition.stages.branches import Branches


@st.composite
def trees(draw: st.DrawFn) -> list[int]:
    return [draw(st.integers(-1, at - 1)) for at in range(draw(st.integers(1, 12)))]


@given(parents=trees(), base_len=st.integers(1, 5), cut=st.integers(0, 12))
def test_a_position_sees_its_ancestors_and_what_is_cached(
    parents: list[int], base_len: int, cut: int
) -> None:
    branches = Branches.of(parents, base_len=base_len)
    count = len(parents)
    cut = min(cut, count - 1)
    bias = branches.bias(cut, count)[0, 0]
    assert bias.shape == (count - cut, base_len + count)
    for at in range(cut, count):
        path, parent = {at}, parents[at]
        while parent >= 0:
            path.add(parent)
            parent = parents[parent]
        seen = {int(column) - base_len for column in np.flatnonzero(bias[at - cut] == 0)}
        assert seen == path | set(range(-base_len, 0))
        assert branches.positions(cut, count)[0, at - cut] == base_len + len(path) - 1


@given(parents=trees())
def test_the_first_path_is_a_plain_continuation(parents: list[int]) -> None:
    length = Branches.of(parents, base_len=1).first_path
    assert parents[1:length] == list(range(length - 1)) or length == 1
    assert length == len(parents) or parents[length] != length - 1


def test_a_child_before_its_parent_is_refused() -> None:
    with pytest.raises(ValueError, match="before it"):
        Branches.of([-1, 2, 1], base_len=1)
