"""A soft prompt's weights keep the names of the first release: in state dicts, in files, in checkpoints."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file
from torch import nn

from magicap.models.fingerprint import fingerprint
from magicap.models.soft_prompt import PROMPT_FILE, SoftPrompt, mapping_network

D, W = 6, 4
NAMES = [
    f"{part}.{layer}.{kind}"
    for part in ("picture", "memory")
    for layer in (0, 2)
    for kind in ("weight", "bias")
]


class Former(nn.Module):
    """The module of the first release."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = mapping_network(D, W)
        self.memory = mapping_network(D, W)


class Around(nn.Module):
    """A module that holds it beside other weights, as an objective does."""

    def __init__(self, prompt: nn.Module) -> None:
        super().__init__()
        self.picture = nn.Linear(2, 2)
        self.prompt = prompt
        self.memory = nn.Linear(2, 2)


@pytest.fixture
def former() -> Former:
    torch.manual_seed(0)
    return Former()


@pytest.fixture
def prompt(former) -> SoftPrompt:
    made = SoftPrompt(D, W)
    made.load_state_dict(former.state_dict())
    return made


def test_names_and_order_are_the_former_ones(former, prompt):
    assert list(prompt.state_dict()) == list(former.state_dict()) == NAMES
    assert fingerprint(prompt) == fingerprint(former)
    torch.testing.assert_close(dict(prompt.state_dict()), dict(former.state_dict()), atol=0, rtol=0)
    assert isinstance(prompt.image_projection, nn.Sequential)
    assert torch.equal(prompt.memory_projection[2].bias, former.memory[2].bias)


def test_so_it_is_within_another_module(former, prompt):
    torch.manual_seed(1)
    mine, old = Around(SoftPrompt(D, W)), Around(former)
    mine.load_state_dict(old.state_dict())
    assert list(mine.state_dict()) == list(old.state_dict())
    assert fingerprint(mine) == fingerprint(old)
    old.load_state_dict(mine.state_dict())
    assert len(list(mine.parameters())) == len(list(old.parameters()))


def test_copies_keep_them_and_are_independent(former, prompt):
    for copied in (copy.deepcopy(prompt), pickle.loads(pickle.dumps(prompt))):
        nn.init.zeros_(copied.image_projection[0].weight)
        assert list(copied.state_dict()) == NAMES
        assert not copied.state_dict()["picture.0.weight"].any()
        copied.load_state_dict(former.state_dict())
        assert fingerprint(copied) == fingerprint(prompt)


def test_files_of_the_first_release_and_of_now_are_alike(former, prompt, tmp_path):
    prompt.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / PROMPT_FILE)) == sorted(NAMES)
    save_file(former.state_dict(), tmp_path / "former.safetensors")
    assert (tmp_path / "former.safetensors").read_bytes() == (tmp_path / PROMPT_FILE).read_bytes()
    assert fingerprint(SoftPrompt.from_pretrained(tmp_path)) == fingerprint(former)
    other = SoftPrompt(D, W)
    load_model(other, tmp_path / PROMPT_FILE)  # as accelerate resumes
    assert fingerprint(other) == fingerprint(former)


def test_what_is_missing_or_too_much_is_still_found(former):
    state = former.state_dict()
    del state["memory.2.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*memory_projection\.2\.bias"):
        SoftPrompt(D, W).load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"Unexpected key.*other"):
        SoftPrompt(D, W).load_state_dict(former.state_dict() | {"other": torch.zeros(1)})
