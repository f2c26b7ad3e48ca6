"""Encoder, decoder and vocabulary as one network, in memory and on disk."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from magicap.errors import BadSettings
from magicap.files import open_to_readers
from magicap.models.finite import require_finite
from magicap.models.loading import explain_loading_errors
from magicap.reading import read_text
from magicap.supervised.decoder import Decoder, DecoderConfig
from magicap.supervised.grid import GridConfig, GridEncoder
from magicap.supervised.recurrent import HardAttention, ShowAndTell, ShowAttendTell
from magicap.supervised.transformer import TransformerDecoder
from magicap.supervised.vocabulary import Vocabulary

CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE = "network.json", "network.safetensors", "vocabulary.txt"

DECODERS: dict[str, type[Decoder]] = {
    "none": ShowAndTell,
    "soft": ShowAttendTell,
    "hard": HardAttention,
    "transformer": TransformerDecoder,
}
"""Decoders by the name that a configuration gives."""


class CaptionNetwork(nn.Module):
    """A picture's grid, and a decoder that attends to it.

    Args:
        grid: the encoder's configuration.
        decoder: the decoder's, its kind one of :data:`DECODERS`.
        vocabulary: the words that the decoder writes.

    Attributes:
        encoder: pictures to grids (B, L, D).
        decoder: grids to words.
        vocabulary: the words.

    Raises:
        BadSettings: no such kind of decoder.
        BadModel: timm knows no such network, or it gives no grid.
    """

    def __init__(self, grid: GridConfig, decoder: DecoderConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        if decoder.kind not in DECODERS:
            raise BadSettings(f"expected a decoder of kind {', '.join(DECODERS)}, found {decoder.kind!r}")
        self.vocabulary = vocabulary
        self.encoder = GridEncoder(grid)
        kind: Any = DECODERS[decoder.kind]
        self.decoder: Decoder = kind(decoder, self.encoder.width, len(vocabulary))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, pixels: Tensor) -> Tensor:
        """Grids (B, L, D) of pictures (B, 3, size, size)."""
        grid: Tensor = self.encoder(pixels)
        return grid

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write configuration, words and weights; floating point in ``dtype``, None keeps it as it is."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = {"encoder": asdict(self.encoder.config), "decoder": asdict(self.decoder.config)}
        (folder / CONFIG_FILE).write_text(
            json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        self.vocabulary.save(folder / VOCABULARY_FILE)
        weights = {
            name: (tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor).contiguous()
            for name, tensor in self.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})
        open_to_readers(folder)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
    ) -> Self:
        """Read what :meth:`save_pretrained` wrote.

        Raises:
            ModelNotFound: no such folder.
            BadModel: a file is missing, no such thing, or holds weights that are not finite.
        """
        from safetensors.torch import load_file

        folder = Path(folder)
        with explain_loading_errors("supervised network", str(folder)):
            config = json.loads(read_text(folder / CONFIG_FILE))
            grid: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in config["encoder"].items()
            }
            vocabulary = Vocabulary.load(folder / VOCABULARY_FILE)
            network = cls(GridConfig(**grid), DecoderConfig(**config["decoder"]), vocabulary)
            network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        # The baseline of hard attention, which captioning does not read, is NaN until it is first moved.
        require_finite(network, f"supervised network {str(folder)!r}", besides=["decoder.baseline"])
        return network.to(device=device, dtype=dtype).eval()
