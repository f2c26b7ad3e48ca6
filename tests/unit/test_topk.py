"""The largest of many columns: what torch's own topk gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from magicap.models.topk import topk


@given(st.integers(1, 5), st.integers(1, 700), st.integers(1, 9), st.integers(0, 2**31))
def test_the_largest_are_those_of_torch(rows, columns, count, seed):
    values = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    count = min(count, columns)
    largest, places = topk(values, count)
    expected = values.topk(count, dim=1)
    assert torch.equal(largest, expected.values)
    assert torch.equal(places, expected.indices)


@pytest.mark.parametrize("columns", [10, 8000])
def test_what_is_no_number_comes_first(columns):
    values = torch.zeros(2, columns)
    values[1, 7] = torch.nan
    largest, places = topk(values, 3)
    assert largest[1, 0].isnan()
    assert places[1, 0] == 7
    assert not largest[0].isnan().any()
