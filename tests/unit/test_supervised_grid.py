"""Networks as grids of features, weights that they take over, and pictures that processes share."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from magicap import BadImage, BadModel
from magicap.data import ImageFiles
from magicap.supervised.grid import GridConfig, GridEncoder, load_backbone
from magicap.supervised.network import CaptionNetwork

TINY = GridConfig("mobilenetv2_035", size=64)


def trained(seed: int = 0) -> GridEncoder:
    """Batch norms that have seen something."""
    torch.manual_seed(seed)
    encoder = GridEncoder(TINY)
    with torch.no_grad():
        for norm in encoder.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.3)
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 2.0)
    return encoder


def folded(encoder: GridEncoder) -> dict[str, Tensor]:
    """Convolutions in their order, batch norm folded in."""
    modules = [m for m in encoder.network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    tensors = {}
    for number, (conv, norm) in enumerate(zip(modules[::2], modules[1::2], strict=True)):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        tensors[f"layers.{number}.weight"] = (conv.weight * scale[:, None, None, None]).detach().contiguous()
        tensors[f"layers.{number}.bias"] = (norm.bias - norm.running_mean * scale).detach()
    return tensors


def named(encoder: GridEncoder, prefix: str = "") -> dict[str, Tensor]:
    return {prefix + name: each.contiguous() for name, each in encoder.network.state_dict().items()}


SWIN = {"img_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
LAYOUTS = {
    "channels first": (TINY, (2, 2), 1280),
    "residual": (GridConfig("test_resnet", size=64), (2, 2), None),
    "patches behind a class token": (GridConfig("test_vit", size=160), (10, 10), 64),
    "channels last": (GridConfig("test_mambaout", size=96), (3, 3), 64),
    "windows, channels last": (GridConfig("swin_tiny_patch4_window7_224", SWIN, 64), (8, 8), 32),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@torch.no_grad()
def test_networks_give_grids_in_reading_order(layout):
    config, extent, width = LAYOUTS[layout]
    encoder = GridEncoder(config)
    assert encoder.extent == extent
    assert encoder.locations == extent[0] * extent[1]
    assert encoder.width == encoder.network.num_features
    assert width in (None, encoder.width)
    pixels = torch.stack([encoder.pixels(picture) for picture in tiny.pictures(3)])
    assert pixels.shape == (3, 3, config.size, config.size)
    features = encoder.network.forward_features(encoder.transform.normalise(pixels))
    found = encoder(pixels)
    assert found.shape == (3, encoder.locations, encoder.width)
    for row in range(extent[0]):
        for column in range(extent[1]):
            if features.ndim == 3:
                expected = features[:, 1 + extent[1] * row + column]
            else:
                expected = features[:, row, column] if "last" in layout else features[:, :, row, column]
            assert torch.allclose(found[:, extent[1] * row + column], expected, atol=1e-5)


@torch.no_grad()
def test_a_network_with_options_is_saved_and_loaded(tmp_path):
    config = LAYOUTS["windows, channels last"][0]
    captioner = tiny.supervised()
    network = CaptionNetwork(config, captioner.network.decoder.config, captioner.network.vocabulary).eval()
    network.save_pretrained(tmp_path)
    found = CaptionNetwork.from_pretrained(tmp_path)
    pixels = torch.randn(2, 3, 64, 64)
    assert torch.equal(found(pixels), network(pixels))
    assert found.encoder.config == config


def test_batch_norm_keeps_its_statistics_while_the_rest_learns():
    encoder = GridEncoder(GridConfig("mobilenetv2_035", size=64))
    before = {name: buffer.clone() for name, buffer in encoder.named_buffers()}
    network = nn.ModuleList([encoder]).train()
    assert encoder.training
    assert encoder.network.conv_stem.training
    norms = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(norm.training for norm in norms)
    pixels = torch.randn(2, 3, 64, 64)
    learning = network[0](pixels)
    learning.sum().backward()
    assert encoder.network.conv_stem.weight.grad.abs().sum() > 0
    assert all(torch.equal(buffer, before[name]) for name, buffer in encoder.named_buffers())
    assert torch.equal(learning, network.eval()[0](pixels))


def test_what_is_no_network_or_picture_is_refused():
    for config in (GridConfig("nosuch"), GridConfig("mobilenetv2_035", {"nosuch": "1"})):
        with pytest.raises(BadModel, match=f"timm cannot make the network '{config.model}'"):
            GridEncoder(config)
    with pytest.raises(BadImage):
        GridEncoder(TINY).pixels(b"<html>404</html>")


# ---- trained weights ----


@pytest.mark.parametrize(
    "names",
    [
        named,
        lambda encoder: named(encoder) | {"classifier.weight": torch.zeros(3, 3)},
        lambda encoder: named(encoder, "visual.trunk.") | {"visual.head.proj.weight": torch.zeros(3, 3)},
        lambda encoder: named(encoder, "encoder.network.") | {"decoder.output.bias": torch.zeros(3)},
        folded,
        lambda encoder: folded(encoder) | {"layers.52.weight": torch.zeros(3)},
    ],
    ids=["timm", "timm with a head", "open_clip", "captioner", "folded", "folded with a head"],
)
@torch.no_grad()
def test_weights_are_taken_over_whatever_their_names(names, tmp_path):
    encoder, other = trained(1), GridEncoder(TINY)
    save_file(names(encoder), tmp_path / "weights.safetensors")
    load_backbone(other, tmp_path / "weights.safetensors")
    pixels = torch.randn(2, 3, 64, 64)
    expected = encoder(pixels)
    assert expected.std() > 0.01
    assert torch.allclose(other(pixels), expected, atol=1e-4 * expected.abs().max())


def test_weights_of_something_else_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    encoder, whole = GridEncoder(TINY), folded(trained())
    with pytest.raises(BadModel, match="cannot be read as safetensors"):
        load_backbone(encoder, path)
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(BadModel, match="cannot be read as safetensors"):
        load_backbone(encoder, path)
    save_file({"conv_stem.weight": encoder.network.conv_stem.weight.detach().contiguous()}, path)
    with pytest.raises(BadModel, match=r"'mobilenetv2_035': \d+ are missing, the first bn1.weight"):
        load_backbone(encoder, path)
    save_file({"visual.trunk.nosuch": torch.zeros(1)}, path)
    with pytest.raises(BadModel, match="are missing"):
        load_backbone(encoder, path)
    save_file(whole | {"layers.3.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(BadModel, match=r"as layers\.3\.weight for blocks.1.0.conv_pw, found \(2, 2\)"):
        load_backbone(encoder, path)
    save_file({name: each for name, each in whole.items() if not name.startswith("layers.9.")}, path)
    with pytest.raises(BadModel, match=r"as layers\.9\.weight .* found None"):
        load_backbone(encoder, path)


OTHER_SHAPES = {
    "another width": (TINY, lambda: named(GridEncoder(GridConfig("mobilenetv2_050", size=64)))),
    "a folded bias": (TINY, lambda: folded(trained()) | {"layers.3.bias": torch.zeros(2)}),
    "folded for a network without batch norm": (GridConfig("test_vit", size=160), lambda: folded(trained())),
}


@pytest.mark.parametrize("case", OTHER_SHAPES)
def test_weights_of_other_shapes_are_refused(case, tmp_path):
    config, weights = OTHER_SHAPES[case]
    save_file(weights(), tmp_path / "weights.safetensors")
    with pytest.raises(BadModel, match=config.model):
        load_backbone(GridEncoder(config), tmp_path / "weights.safetensors")


def test_the_folded_mobilenet_gives_a_grid(data_dir):
    path = Path(data_dir).parent / "weights" / "mobilenet_v2_folded_dequant.safetensors"
    if not path.is_file():
        pytest.skip("data: the weights are not beside MAGICAP_DATA")
    encoder = GridEncoder(GridConfig(options={"pad_type": "same"}))
    pixels = torch.stack([encoder.pixels(picture) for picture in tiny.pictures(2)])
    with torch.no_grad():
        load_backbone(encoder, path)
        grid = encoder(pixels)
    assert grid.shape == (2, 49, 1280)
    assert (encoder.extent, encoder.width) == ((7, 7), 1280)
    assert ((grid >= 0) & (grid <= 6)).all()  # of a ReLU6
    assert 0.5 < (grid == 0).float().mean() < 0.99  # random weights give half, if anything
    assert (grid[0] - grid[1]).abs().mean() > 0.05


# ---- pictures that processes share ----


class Names(list):
    """Names of pictures with their bytes, as a data set."""

    def __init__(self, names: list[str], images: ImageFiles) -> None:
        super().__init__(names)
        self.images = images

    def __getitem__(self, number: int) -> tuple[str, bytes]:
        name = super().__getitem__(number)
        return name, self.images.read(name)


def test_forked_workers_and_their_parent_read_one_tar_alternately(tmp_path):
    encoded = {}
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for number, picture in enumerate(tiny.pictures(24)):
            file = io.BytesIO()
            Image.fromarray(picture).save(file, "PNG")
            member = tarfile.TarInfo(f"{number}.png")
            member.size = file.tell()
            file.seek(0)
            tar.addfile(member, file)
            encoded[member.name] = file.getvalue()
    with ImageFiles(tmp_path / "images.tar") as images:
        images.read("0.png")  # the parent's place in the file is what children would inherit
        loader = DataLoader(
            Names(list(encoded), images),
            batch_size=None,
            num_workers=2,
            multiprocessing_context="fork",
        )
        for (name, found), own in zip(loader, reversed(encoded), strict=True):
            assert found == encoded[name]
            assert images.read(own) == encoded[own]
