"""Products with prepacked weights equal torch's own, and follow the weights."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune
from transformers.pytorch_utils import Conv1D

from magicap.models import float_layers
from magicap.models.float_layers import GELU, GELU_TANH, RELU, FloatLayers

prepacking = pytest.mark.skipif(
    not float_layers.can_prepack(), reason="this processor, or this build of torch, prepacks no weights"
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(
    rows=st.sampled_from([(0,), (1,), (2,), (10,), (3, 7), (1, 1), (0, 4)]),
    inner=st.integers(1, 70),
    outer=st.integers(1, 70),
    bias=st.booleans(),
    activation=st.sampled_from([None, GELU, GELU_TANH, RELU]),
    inference=st.booleans(),
)
def test_linear_layers_of_all_kinds(rows, inner, outer, bias, activation, inference):
    linear, conv = nn.Linear(inner, outer, bias=bias), Conv1D(outer, inner)
    conv.bias.data = random(outer)
    x = random(*rows, inner)
    layers = FloatLayers()
    for layer in (linear, conv):
        expected = layer(x) if activation is None else activation(layer(x))
        with torch.inference_mode(inference):
            torch.testing.assert_close(layers.product(x, layer, activation), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inference", [True, False])
def test_the_parts_of_an_in_projection_are_those_of_the_whole(inference):
    attention, layers, x = nn.MultiheadAttention(24, 4), FloatLayers(), random(2, 5, 24)
    expected = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    with torch.inference_mode(inference):
        torch.testing.assert_close(layers.product(x, attention), expected)
        torch.testing.assert_close(layers.queries(x, attention), expected[..., :24])
        torch.testing.assert_close(layers.keys_and_values(x, attention), expected[..., 24:])


def test_rows_that_do_not_lie_one_behind_the_other():
    layer, layers = nn.Linear(16, 8), FloatLayers()
    x = random(16, 12).T
    with torch.inference_mode():
        for rows in (x, x[::2], x.unflatten(0, (3, 4)).transpose(0, 1)):
            torch.testing.assert_close(layers.product(rows, layer), F.linear(rows, layer.weight, layer.bias))


@prepacking
def test_other_weights_give_other_products():
    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)

    def product() -> Tensor:
        with torch.inference_mode():
            return layers.product(x, layer)

    def holds() -> bool:
        return torch.allclose(product(), x @ layer.weight.T + layer.bias, atol=1e-5)

    before = product()
    assert layers.prepacked_bytes
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.bias.zero_()
    assert holds()
    assert not torch.allclose(product(), before)
    layer.load_state_dict(nn.Linear(16, 8).state_dict())
    assert holds()
    layer.weight = nn.Parameter(random(8, 16, seed=5))
    assert holds()
    layer.half().float()
    assert holds()
    for seed in range(20):  # as weights are that are put away and read again
        layer.weight.data = torch.empty(0)
        layer.weight.data = random(8, 16, seed=seed)
        assert holds()
    assert layers.prepacked_bytes == layer.weight.nbytes


@prepacking
@pytest.mark.parametrize("kind", [{"foreach": True}, {"foreach": False}, {"fused": True}])
def test_optimizers_change_weights(kind):
    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, **kind)
    for _ in range(3):
        with torch.inference_mode():
            torch.testing.assert_close(layers.product(x, layer), F.linear(x, layer.weight, layer.bias))
        layer(x).sum().backward()
        optimizer.step()


@prepacking
def test_weights_that_learn_are_read_as_they_are():
    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    layers.product(x, layer).sum().backward()
    assert layer.weight.grad is not None
    assert not layers.prepacked_bytes
    with torch.no_grad():
        layers.product(x, layer)
    assert not layers.prepacked_bytes


def test_layers_that_do_more_are_called():
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    hooked, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    hooked.register_forward_hook(lambda module, inputs, output: 3 * output)
    pruned = prune.l1_unstructured(nn.Linear(16, 8), "weight", 0.5)
    with torch.inference_mode():
        for layer in (Doubled(16, 8), hooked, pruned):
            torch.testing.assert_close(layers.product(x, layer, GELU), GELU(layer(x)))
        with torch.no_grad():
            pruned.weight_orig.mul_(2)
        torch.testing.assert_close(layers.product(x, pruned), pruned(x))
    assert not layers.prepacked_bytes


@prepacking
def test_weights_of_kinds_of_their_own_stay_as_they_are():
    class Own(Tensor):
        pass

    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Own), requires_grad=False)
    with torch.inference_mode():
        torch.testing.assert_close(layers.product(x, layer), layer(x))
    assert not layers.prepacked_bytes


@prepacking
@pytest.mark.parametrize("around", [torch.device("meta"), torch.autocast("cpu", torch.bfloat16)])
def test_whether_weights_can_be_prepacked_is_found_out_anywhere(around):
    with around:
        assert float_layers.can_prepack.__wrapped__()


@prepacking
def test_copies_prepack_for_themselves():
    layer, layers = nn.Linear(16, 8), FloatLayers()
    with torch.inference_mode():
        layers.product(random(4, 16), layer)
    assert layers.prepacked_bytes
    for copied in (copy.deepcopy(layers), pickle.loads(pickle.dumps(layers))):
        assert not copied.prepacked_bytes


@prepacking
def test_beyond_a_bound_weights_stay_as_they_are(monkeypatch):
    layers, x = FloatLayers(), random(4, 16)
    few, many = nn.Linear(16, 8), nn.Linear(16, 80)
    monkeypatch.setattr(float_layers, "MOST_BYTES", few.weight.nbytes + 100)
    with torch.inference_mode():
        for layer in (few, many, few):
            torch.testing.assert_close(layers.product(x, layer), F.linear(x, layer.weight, layer.bias))
    assert layers.prepacked_bytes == few.weight.nbytes


@pytest.mark.parametrize("activation", [None, GELU, GELU_TANH, RELU])
@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_numbers_that_broke_stay_broken(activation, broken):
    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    x[1, 3] = broken
    x[1, 4] = -broken
    with torch.inference_mode():
        product = layers.product(x, layer, activation)
    assert not product[1].isfinite().all()
    assert product[[0, 2, 3]].isfinite().all()
    if broken != broken:
        assert product[1].isnan().all()


@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_other_processors_go_without(machine, monkeypatch):
    monkeypatch.setattr(float_layers.platform, "machine", lambda: machine)
    monkeypatch.setattr(float_layers, "can_prepack", float_layers.can_prepack.__wrapped__)
    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    with torch.inference_mode():
        assert torch.equal(layers.product(x, layer), F.linear(x, layer.weight, layer.bias))
    assert not layers.prepacked_bytes


def test_a_build_of_torch_without_the_operators_goes_without(monkeypatch):
    monkeypatch.setattr(float_layers, "can_prepack", float_layers.can_prepack.__wrapped__)

    def missing(weight: Tensor) -> Tensor:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(float_layers, "prepack", missing)
    layer, layers, x = nn.Linear(16, 8), FloatLayers(), random(4, 16)
    with torch.inference_mode():
        assert torch.equal(layers.product(x, layer), F.linear(x, layer.weight, layer.bias))


@prepacking
def test_in_bfloat16_weights_and_inputs_are_rounded_and_products_are_not():
    layer, layers, x = nn.Linear(64, 8), FloatLayers(torch.bfloat16), random(4, 64)
    following = nn.Linear(8, 3)
    with torch.inference_mode():
        product = layers.product(x, layer)
        expected = F.linear(x.bfloat16().float(), layer.weight.bfloat16().float(), layer.bias)
        assert product.dtype == torch.float32
        torch.testing.assert_close(product, expected, atol=0.02, rtol=0.02)
        assert not torch.allclose(product, layer(x), atol=1e-5)
        inner = layers.product(x, layer, GELU)  # which another product reads
        assert inner.dtype == torch.bfloat16
        torch.testing.assert_close(inner.float(), GELU(expected), atol=0.02, rtol=0.02)
        expected = following(inner.float())
        for rows in (4, 1):  # prepacked, and not
            outer = layers.product(inner[:rows], following)
            assert outer.dtype == torch.float32
            torch.testing.assert_close(outer, expected[:rows], atol=0.02, rtol=0.02)
        following.register_forward_hook(lambda module, inputs, output: 3 * output)
        torch.testing.assert_close(layers.product(inner, following), 3 * expected)
    assert copy.deepcopy(layers).dtype == torch.bfloat16


@prepacking
def test_any_number_of_rows_is_multiplied_in_few_sizes(monkeypatch):
    layer, layers, sizes = nn.Linear(16, 8), FloatLayers(), set()
    multiply = float_layers.multiply

    def seen(x: Tensor, *others: object) -> Tensor:
        sizes.add(x.numel() // 16)
        return multiply(x, *others)

    monkeypatch.setattr(float_layers, "multiply", seen)
    with torch.inference_mode():
        for rows in [*range(2, 300), *range(290, 1, -1)]:
            x = random(rows, 16, seed=rows)
            torch.testing.assert_close(layers.product(x, layer), F.linear(x, layer.weight, layer.bias))
        x = random(3, 97, 16)
        expected = GELU(F.linear(x, layer.weight, layer.bias))
        torch.testing.assert_close(layers.product(x, layer, GELU), expected, atol=1e-5, rtol=1e-5)
    assert len(sizes) <= 60
    assert all(size <= 300 * 9 / 8 for size in sizes)
