"""SupervisedCaptioner: the trained baseline with the methods that every captioner has."""

from __future__ import annotations

import copy
from functools import cached_property
from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from magicap.captioners.base import BaseCaptioner
from magicap.captioners.folder import (
    SUPERVISED,
    CaptionerSettings,
    Part,
    as_device,
    as_dtype,
    captioner_folder,
    read_settings,
    require_kind,
    write_settings,
)
from magicap.captioners.presets import DEFAULT_SUPERVISED
from magicap.captioners.saving import put_folder_in_place, weights_fingerprint
from magicap.errors import BadModel
from magicap.images.reader import ImageSource, open_image
from magicap.images.transform import ImageTransform, PreparedImage
from magicap.models.fingerprint import fingerprint
from magicap.results import Caption, Hypothesis, Step, added_text
from magicap.settings_io import from_dict, to_dict
from magicap.supervised.attention_maps import attention_maps, require_attention
from magicap.supervised.network import CONFIG_FILE, VOCABULARY_FILE, WEIGHTS_FILE, CaptionNetwork
from magicap.supervised.search import BeamOutput
from magicap.supervised.searches import search_captions
from magicap.supervised.settings import SUPERVISED_DECODINGS, BeamSearch
from magicap.supervised.vocabulary import END, PAD

if TYPE_CHECKING:
    from magicap.explanations.attention import AttentionExplanation

NETWORK = "network"


class SupervisedCaptioner(BaseCaptioner[Any]):
    """Captions pictures with a network that was trained on captioned pictures.

    Attributes:
        network: encoder, decoder and vocabulary.
        decoding: how captions are searched for, unless a call names another.
    """

    def __init__(self, network: CaptionNetwork, decoding: Any = None) -> None:
        self.network = network.eval()
        self.decoding: Any = BeamSearch() if decoding is None else decoding

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT_SUPERVISED,
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = torch.float32,
    ) -> SupervisedCaptioner:
        """A captioner by the name of a preset, or from a folder that ``save_pretrained`` or a recipe wrote.

        Args:
            source: a name of :data:`magicap.captioners.presets.PRESETS` or a folder.
            device: where to compute; None takes a GPU if there is one.
            dtype: float32, bfloat16 or float16.

        Raises:
            ModelNotFound: no such preset or folder.
            BadModel: a folder that cannot be used, or holds a captioner of another kind.
        """
        require_kind(source, SUPERVISED, "Captioner")
        folder = captioner_folder(source)
        if folder is None:
            raise BadModel(f"{source} has no folder")
        decoding = from_dict(read_settings(folder).decoding, SUPERVISED_DECODINGS)
        network = CaptionNetwork.from_pretrained(folder, device=as_device(device), dtype=as_dtype(dtype))
        return cls(network, decoding)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.network.device

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that tell this network from any other, of its weights when first asked for."""
        return fingerprint(self.network)

    def save_pretrained(self, folder: str | Path, *, dtype: str | torch.dtype | None = None) -> None:
        """Write the whole captioner into one folder, weights as safetensors.

        A captioner that stands there is replaced once the new one is whole; other files stay.

        Args:
            folder: where to write; made where it is not there.
            dtype: of the stored weights, e.g. ``"float16"`` for half the size; None keeps them as they are.

        Raises:
            BadSettings: the folder cannot be written, or the decoding is one of your own.
        """
        decoding = to_dict(self.decoding, SUPERVISED_DECODINGS)
        stored = None if dtype is None else as_dtype(dtype)
        with put_folder_in_place(folder, [CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE]) as new:
            self.network.save_pretrained(new, dtype=stored)
            parts = {NETWORK: Part(WEIGHTS_FILE, weights_fingerprint(self.network, stored))}
            write_settings(new, CaptionerSettings(SUPERVISED, decoding, parts))

    @property
    def transform(self) -> ImageTransform:
        """How pictures become what the network reads."""
        return self.network.encoder.transform

    def explain(
        self, image: ImageSource | PreparedImage, decoding: Any = None, *, seed: int = 0
    ) -> AttentionExplanation:
        """Caption one picture, and show the decoder's attention at each word.

        Args:
            image: anything that :func:`magicap.images.reader.open_image` takes, or a picture resized already.
            decoding: how to search; None takes the captioner's own.
            seed: of decodings that sample.

        Raises:
            BadImage: the picture cannot be read.
            BadSettings: the decoder has no attention.
        """
        from magicap.explanations.attention import AttentionExplanation

        require_attention(self.network)
        picture = image.picture if isinstance(image, PreparedImage) else open_image(image)
        grid = self._grid(self._pixels(picture)[None])
        (caption,) = self._captions_of(grid, self.decoding if decoding is None else decoding, [seed])
        maps = attention_maps(self.network, grid, [step.token_id for step in caption.steps])
        gate = None if maps.gate is None else maps.gate.double().numpy()
        return AttentionExplanation(picture, caption, maps.attention.double().numpy(), gate)

    @cached_property
    def _in_float32(self) -> Self | None:
        if next(self.network.parameters()).dtype == torch.float32:
            return None
        return type(self)(copy.deepcopy(self.network).float(), self.decoding)

    def _batch(self, pixels: Tensor, decoding: Any, seeds: list[int]) -> list[Caption]:
        return self._captions_of(self._grid(pixels), decoding, seeds)

    @torch.no_grad()
    def _grid(self, pixels: Tensor) -> Tensor:
        """(B, L, D) of pictures (B, 3, H, W)."""
        grid: Tensor = self.network(pixels.to(self.device))
        return grid

    def _captions_of(self, grid: Tensor, decoding: Any, seeds: list[int]) -> list[Caption]:
        output = search_captions(self.network.decoder, grid, seeds, decoding)
        ranked = output.ranked(decoding.length_penalty)[:, : decoding.num_hypotheses]
        return [self._caption(output, row, order, decoding) for row, order in enumerate(ranked.tolist())]

    def _caption(self, output: BeamOutput, row: int, order: list[int], decoding: Any) -> Caption:
        """The caption of one picture, and the others of its beam by falling score."""
        scores = output.scores(decoding.length_penalty)[row].tolist()
        hypotheses = tuple(
            Hypothesis(
                self._text(output.ids[row, number].tolist()),
                log_probability=float(output.log_probability[row, number].sum()),
                finished=bool(output.ended[row, number]),
                score=scores[number],
            )
            for number in order
        )
        log_probability = output.log_probability[row, order[0]].tolist()
        steps = self._steps(output.ids[row, order[0]].tolist(), log_probability)
        score = sum(log_probability) / len(steps)
        return Caption(steps[-1].text, score=score, steps=steps, hypotheses=hypotheses)

    def _text(self, ids: list[int]) -> str:
        return self.network.vocabulary.text([token for token in ids if token != PAD])

    def _steps(self, ids: list[int], log_probability: list[float]) -> tuple[Step, ...]:
        tokens = [token for token in ids if token != PAD]
        steps, before = [], ""
        for count, (token, log_p) in enumerate(zip(tokens, log_probability, strict=False), start=1):
            text = self.network.vocabulary.text(tokens[:count])
            steps.append(Step(text, added_text(before, text), token, exp(log_p), 0.0, 0.0, token == END))
            before = text
        return tuple(steps)
