"""Arrays, tensors, and pictures of more than 8 bits."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pictures import BLACK, WHITE, encode, noise, pixel, png_of, refused, same
from PIL import Image

from magicap.images.reader import ImageLimits, open_image

small_rgb = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))


@given(small_rgb)
def test_uint8_arrays_and_tensors_round_trip(array: np.ndarray) -> None:
    assert np.array_equal(np.asarray(open_image(array)), array)
    assert np.array_equal(np.asarray(open_image(torch.tensor(array).permute(2, 0, 1))), array)


@given(small_rgb, st.sampled_from([np.float16, np.float32, np.float64, np.longdouble]))
def test_other_element_types_agree_with_uint8(array: np.ndarray, dtype: type) -> None:
    scaled = array.astype(dtype) / dtype(255)
    assert np.array_equal(np.asarray(open_image(scaled)), array)
    assert np.array_equal(np.asarray(open_image(array.astype(np.uint16) * 257)), array)
    assert np.array_equal(np.asarray(open_image((array.astype(np.uint16) * 257).astype(">u2"))), array)
    if array.max() >= 2:
        assert np.array_equal(np.asarray(open_image(array.astype(dtype))), array)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))))
def test_channels_first_tensors_equal_channels_last_arrays(array: np.ndarray) -> None:
    assert same(open_image(torch.tensor(array).permute(2, 0, 1)), open_image(array))
    assert same(open_image(torch.tensor(array[:, :, 0])), open_image(array[:, :, 0]))
    assert same(open_image(array[:, :, :1]), open_image(array[:, :, 0]))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(4))))
def test_four_channels_equal_the_png_with_alpha(array: np.ndarray) -> None:
    assert same(open_image(array), open_image(encode(Image.fromarray(array), "PNG")))


def test_two_channels_are_grey_and_alpha() -> None:
    assert pixel(np.array([[[0, 255]]], np.uint8)) == BLACK
    assert pixel(np.array([[[0, 0]]], np.uint8)) == WHITE


def test_bool_arrays() -> None:
    array = np.array([[False, True]])
    assert (pixel(array), pixel(torch.tensor(array), 1)) == (BLACK, WHITE)


def test_strided_and_read_only_arrays() -> None:
    array = np.array(noise())
    assert same(open_image(array[::-1, ::-1]), noise().transpose(Image.Transpose.ROTATE_180))
    array.flags.writeable = False
    assert same(open_image(array), noise())
    assert pixel(np.broadcast_to(np.uint8(9), (5, 5))) == (9, 9, 9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_that_require_grad(dtype: torch.dtype) -> None:
    assert pixel(torch.ones(3, 2, 2, dtype=dtype, requires_grad=True) / 2) == (128, 128, 128)


@pytest.mark.gpu
def test_tensors_on_the_gpu() -> None:
    assert pixel(torch.ones(3, 2, 2, device="cuda")) == WHITE


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.full((2, 2), np.nan), "nan"),
        (np.array([[0, np.inf]]), "nan"),
        (np.array([[0, -np.inf]]), "nan"),
        (np.array([[-0.1, 0.5]]), "range"),
        (np.array([[0, 256.0]]), "range"),
        (np.array([[0, 1.2]]), "range"),
        (np.zeros((2, 2), np.int64), "dtype"),
        (np.zeros((2, 2), np.int8), "dtype"),
        (np.zeros((2, 2), complex), "dtype"),
        (np.zeros((2, 2), object), "dtype"),
        (np.zeros((2, 2), "U2"), "dtype"),
        (np.zeros((2, 2), "u1,u1"), "dtype"),
        (np.zeros((0, 3), np.uint8), "shape"),
        (np.zeros((3, 0, 3), np.uint8), "shape"),
        (np.zeros((3, 3, 0), np.uint8), "shape"),
        (np.zeros((2, 2, 5), np.uint8), "shape"),
        (np.zeros((3, 8, 8), np.uint8), "shape"),
        (np.zeros((1, 2, 2, 3), np.uint8), "shape"),
        (np.zeros(3, np.uint8), "shape"),
        (np.zeros((), np.uint8), "shape"),
        (np.zeros((1,) * 32, np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_picture(array: np.ndarray, code: str) -> None:
    with refused(code):
        open_image(array)


@pytest.mark.parametrize(
    ("tensor", "code"),
    [
        (torch.zeros(1, 3, 2, 2), "shape"),
        (torch.zeros(8, 8, 3), "shape"),
        (torch.zeros(3), "shape"),
        (torch.zeros(2, 2, dtype=torch.int64), "dtype"),
        (torch.zeros(2, 2, dtype=torch.complex64), "dtype"),
        (torch.zeros(2, 2).to_sparse(), "dtype"),
        (torch.zeros(3, 2, 2, device="meta"), "dtype"),
        (torch.full((2, 2), torch.nan), "nan"),
        (torch.full((2, 2), -1.0), "range"),
        (torch.zeros(3, 1, 101), "aspect"),
    ],
)
def test_tensors_that_are_no_picture(tensor: torch.Tensor, code: str) -> None:
    with refused(code):
        open_image(tensor)


def test_the_error_for_a_batch_says_what_to_do() -> None:
    with refused("shape", "one picture at a time"):
        open_image(np.zeros((2, 4, 4, 3), np.uint8))


def test_rounding_noise_around_zero_and_one_is_no_reason_to_refuse() -> None:
    assert pixel(np.array([[-1e-6, 1 + 1e-6]]), 1) == WHITE
    assert pixel(np.array([[-1e-6, 1 + 1e-6]])) == BLACK


# --- pictures of more than 8 bits ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_keeps_its_range(kind: str) -> None:
    ramp = np.linspace(0, 65535, 257).round().astype(np.uint16).reshape(1, -1)
    data = encode(Image.fromarray(ramp), kind)
    grey = np.asarray(open_image(data, limits=ImageLimits(aspect=300)))[0, :, 0]
    assert (grey[0], grey[128], grey[256]) == (0, 128, 255)
    assert np.array_equal(grey, (ramp[0].astype(int) + 128) // 257)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I;16N", "I"])
def test_16_bit_pil_modes(mode: str) -> None:
    assert pixel(Image.new(mode, (2, 2), 257 * 100)) == (100, 100, 100)


def test_dark_16_bit_picture_stays_dark() -> None:
    assert pixel(Image.fromarray(np.full((2, 2), 514, np.uint16))) == (2, 2, 2)


def test_16_bit_colour_png() -> None:
    row = struct.pack(">B6H", 0, 65535, 0, 32768, 257, 514, 771)
    data = png_of(2, 1, row, depth=16, colour=2)
    assert (pixel(data), pixel(data, 1)) == ((255, 0, 128), (1, 2, 3))


def test_32_bit_grey_is_stretched() -> None:
    image = Image.fromarray(np.array([[-1000, 0, 1000], [2**31 - 1, 1000, 0]], np.int32))
    assert (pixel(encode(image, "TIFF")), pixel(encode(image, "TIFF"), 0, 1)) == (BLACK, WHITE)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 0.5, 1], [0, 128, 255]),
        ([0, 100, 255], [0, 100, 255]),
        ([-1, 0, 1], [0, 128, 255]),
        ([0, 500, 1000], [0, 128, 255]),
        ([1000, 1000, 1000], [0, 0, 0]),
        ([-3e38, 0, 3e38], [0, 128, 255]),
        ([0.0, 1.5, 0.75], [0, 255, 128]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert [pixel(data, x)[0] for x in range(3)] == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_float_tiff_with_nan_is_refused(bad: float) -> None:
    with refused("nan"):
        open_image(encode(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"))


def test_colour_key_of_a_16_bit_grey_png() -> None:
    ramp = Image.fromarray(np.array([[0, 30000, 40000]], np.uint16))
    data = encode(ramp, "PNG", transparency=30000)
    assert [pixel(data, x) for x in range(3)] == [BLACK, WHITE, (156, 156, 156)]
