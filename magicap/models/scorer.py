"""An open_clip image-text model behind few methods: encode_images, encode_texts, similarity.

Shapes: N pictures or texts, D embedding width.
"""

from __future__ import annotations

import copy
import json
import logging
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicap.errors import BadSettings
from magicap.files import open_to_readers
from magicap.images.reader import ImageSource
from magicap.images.transform import ImageTransform, prepare
from magicap.models.class_vector import (
    CLASS_VECTOR_FILE,
    ClassVector,
    class_vector_of,
    split_weights,
)
from magicap.models.fingerprint import combined, fingerprint, fingerprint_of_weights
from magicap.models.finite import are_unit, broken_image, require_unit
from magicap.models.float_layers import FloatLayers, has_fast_bfloat16
from magicap.models.hugging_face_text import encode_whole, save_shape
from magicap.models.incremental_text import EncodedText, IncrementalTextEncoder
from magicap.models.loading import import_open_clip
from magicap.models.pinned import LOCAL_DIR
from magicap.models.plain_clip import PlainClip, as_open_clip
from magicap.models.scorer_files import CONFIG_FILE, WEIGHTS_FILE, read_scorer
from magicap.models.scorer_tokens import ScorerTokens
from magicap.models.text_tower import CausalTextTower
from magicap.models.text_tree import encode_groups

if TYPE_CHECKING:
    from PIL.Image import Image

_PROBES = (("a dog", "a dog runs"), ("a dog runs", "a dog runs across the grass."), ("a dog r", "a man"))

_log = logging.getLogger(__name__)
_building = threading.Lock()


class ImageTextScorer:
    """A CLIP-type model: pictures and texts as unit vectors of one space.

    Args:
        model: an open_clip ``CLIP`` or ``CustomTextCLIP``, or a :class:`PlainClip` that becomes one when
            :attr:`model` is asked for.
        tokenizer: open_clip's tokenizer of that model, or a :class:`PlainReader`.
        preprocess: an RGB picture to the tensor (3, H, W) the model expects, by open_clip itself; None:
            made of the config when asked for.
        config: ``model_cfg`` and ``preprocess_cfg`` as in an ``open_clip_config.json``.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[Sequence[str]], Tensor],
        preprocess: Callable[[Image], Tensor] | None,
        config: dict[str, Any],
    ) -> None:
        self._network: Any = model.eval()
        self._preprocess: Any = preprocess
        self._is_int8, self._image_layers = False, FloatLayers()
        self.config = config
        self.transform = ImageTransform.of(config["preprocess_cfg"])
        self._tokens = ScorerTokens(tokenizer)
        self.text_tower = self._confirmed_tower()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        tag: str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> ImageTextScorer:
        """Load an open_clip model with its trained weights; random ones are refused.

        Args:
            name: an open_clip name with a ``tag`` (``ViT-B-32``, ``openai``), ``hf-hub:owner/name``,
                ``local-dir:folder``, or the path of such a folder; a ``CLIPModel`` of transformers as
                ``owner/name`` or the path of its folder.
            revision: commit, branch or tag of the hub's repository; None takes the newest.

        Raises:
            ModelNotFound: nothing there, or the hub cannot be reached and nothing is cached.
            BadModel: found, but without weights, with broken ones, or not in open_clip's format.
            BadSettings: a ``revision`` of a scorer that is not of the hub.
            MissingPackage: torchvision, which open_clip needs, is broken.
        """
        model, tokenizer, preprocess, config = read_scorer(name, tag, device, dtype, revision)
        scorer = cls(model, tokenizer, preprocess, config)
        title = str(name).removeprefix(LOCAL_DIR) if tag is None else f"{name} ({tag})"
        scorer._require_unit_vectors(f"scorer {title!r}")
        return scorer

    @classmethod
    def from_config(cls, config: dict[str, Any], tokenizer_folder: str | Path) -> ImageTextScorer:
        """An untrained model of the given shape, for recipes.

        Args:
            config: ``model_cfg`` and ``preprocess_cfg`` as in an ``open_clip_config.json``.
            tokenizer_folder: a transformers tokenizer whose ids the text tower reads.
        """
        import open_clip
        from open_clip.tokenizer import HFTokenizer
        from open_clip.transform import PreprocessCfg, image_transform_v2

        shape = copy.deepcopy(config["model_cfg"])
        kind = open_clip.CustomTextCLIP if shape.pop("custom_text", False) else open_clip.CLIP
        tokenizer = HFTokenizer(str(tokenizer_folder), context_length=shape["text_cfg"]["context_length"])
        preprocess = image_transform_v2(PreprocessCfg(**config["preprocess_cfg"]), is_train=False)
        return cls(kind(**shape), tokenizer, preprocess, config)

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the ``local-dir:`` layout of open_clip: config, safetensors (in ``dtype``) and tokenizer.

        A class vector goes beside it, into a file of its own; open_clip itself loads the rest without it.
        """
        from safetensors.torch import save_file

        def stored(state: dict[str, Tensor]) -> dict[str, Tensor]:
            return {
                name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor
                for name, tensor in state.items()
            }

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = copy.deepcopy(self.config)
        if hasattr(self.tokenizer, "save_pretrained"):
            self.tokenizer.save_pretrained(str(folder))
            # Any name makes open_clip look for the tokenizer, and it looks in the folder itself.
            config["model_cfg"]["text_cfg"].setdefault("hf_tokenizer_name", "local")
        save_shape(self._network, config, folder)
        (folder / CONFIG_FILE).write_text(
            json.dumps(config, indent=2, allow_nan=False) + "\n", encoding="utf-8"
        )
        weights, of_class_vector = split_weights(self._network)
        save_file(stored(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CLASS_VECTOR_FILE).unlink(missing_ok=True)  # of a scorer that was saved here before
        if self.class_vector is not None:
            metadata = {"format": "pt", "top": str(self.class_vector.top)}
            save_file(stored(of_class_vector), folder / CLASS_VECTOR_FILE, metadata=metadata)
        open_to_readers(folder)

    @property
    def model(self) -> Any:
        """The open_clip model; one that was loaded without open_clip is built when it is first asked for."""
        if isinstance(self._network, PlainClip):
            with _building:
                if isinstance(self._network, PlainClip):
                    whole = as_open_clip(self._network, self.config)
                    if self.text_tower is not None:
                        tower = CausalTextTower.of(whole)
                        self.text_tower = tower.in_int8() if tower and self._is_int8 else tower
                    self._network, self._image_layers = whole, FloatLayers()
        return self._network

    @property
    def tokenizer(self) -> Any:
        """Open_clip's tokenizer of that model."""
        return self._tokens.whole()

    @property
    def preprocess(self) -> Callable[[Image], Tensor]:
        """An RGB picture to the tensor (3, H, W) the model expects, by open_clip itself."""
        if self._preprocess is None:
            import_open_clip()
            from open_clip.transform import PreprocessCfg, image_transform_v2

            self._preprocess = image_transform_v2(
                PreprocessCfg(**self.config["preprocess_cfg"]), is_train=False
            )
        preprocess: Callable[[Image], Tensor] = self._preprocess
        return preprocess

    @property
    def network(self) -> nn.Module:
        """What it computes with: :attr:`model`, or what stands for it while nobody has asked for that."""
        network: nn.Module = self._network
        return network

    def to_int8(self) -> ImageTextScorer:
        """This one with its text tower's blocks in int8, on a processor.

        Image towers would lose too much in int8. That of a :class:`PlainClip` multiplies in bfloat16 where
        the processor does so faster, until :attr:`model` is asked for; others stay as they are. Cosines
        differ by about 0.001 then, and the fingerprint does not.

        The weights stay as they are: they are what is saved.

        Raises:
            BadSettings: the text tower is not causal, or not in float32.
        """
        if self.text_tower is None or self.dtype != torch.float32:
            kind = "another" if self.text_tower is None else f"one in {self.dtype}"
            raise BadSettings(f"int8 takes a causal text tower in float32, found {kind}; use another dtype")
        self.text_tower, self._is_int8 = self.text_tower.in_int8(), True
        self._image_layers = FloatLayers(torch.bfloat16 if has_fast_bfloat16() else torch.float32)
        self.__dict__.pop("fingerprint", None)
        return self

    def in_float32(self) -> ImageTextScorer:
        """A copy that computes in float32; where this one does so in int8, of the same weights."""
        if not self._is_int8:
            exact = copy.deepcopy(self)
            exact.model.float()
            return exact
        exact = copy.copy(self)
        exact.text_tower, exact._is_int8 = CausalTextTower.of(self._network), False
        exact._image_layers = FloatLayers()
        exact.__dict__.pop("fingerprint", None)
        return exact

    @property
    def class_vector(self) -> ClassVector | None:
        """What adds the names of a classifier's classes to the image vectors; None where nothing does."""
        return class_vector_of(self._network)

    @property
    def logit_scale(self) -> float:
        """The trained inverse temperature by which cosines are multiplied before a softmax."""
        return float(self._network.logit_scale.detach().float().exp())

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = next(self._network.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in; int8: its text tower does."""
        dtype: torch.dtype = next(self._network.parameters()).dtype
        return torch.int8 if self._is_int8 else dtype

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that tell this scorer from any other, of its weights at first use."""
        digits = fingerprint(self._network)
        return combined(digits, "int8") if self._is_int8 else digits

    def pixels(self, image: ImageSource) -> Tensor:
        """A picture as bytes (3, H, W) of the size that the image tower reads.

        Raises:
            BadImage: the picture cannot be read.
        """
        return torch.from_numpy(prepare(image, self.transform).pixels)

    @torch.inference_mode()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Unit vectors (N, D) of pictures as :meth:`pixels` gives them, (N, 3, H, W).

        Where the tower's numbers break for a picture its vector is not of length one: see :func:`are_unit`.
        """
        dtype = next(self._network.visual.parameters()).dtype
        normalised = self.transform.normalise(pixels.to(self.device))
        features: Tensor = self._encode_image(normalised.to(dtype))
        return F.normalize(features.float(), dim=-1)

    def _encode_image(self, pixels: Tensor) -> Tensor:
        if isinstance(self._network, PlainClip):
            return self._network.encode_image(pixels, self._image_layers)
        features: Tensor = self._network.encode_image(pixels)
        return features

    def encode_images(self, images: Sequence[ImageSource], batch_size: int = 32) -> Tensor:
        """Unit vectors (N, D) of pictures, each anything that :func:`magicap.images.reader.open_image` takes.

        Raises:
            BadImage: a picture cannot be read, or the image tower gives no unit vector for it.
        """
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        vectors = [
            self.encode_pixels(torch.stack([self.pixels(image) for image in batch])) for batch in batches
        ]
        if not vectors:
            return torch.empty(0, self.width, device=self.device)
        encoded = torch.cat(vectors)
        for image, is_unit in zip(images, are_unit(encoded).tolist(), strict=True):
            if not is_unit:
                raise broken_image(image)
        return encoded

    @torch.inference_mode()
    def encode_texts(
        self,
        texts: Sequence[str],
        batch_size: int = 256,
        *,
        on_progress: Callable[[int], object] = lambda count: None,
    ) -> Tensor:
        """Unit vectors (N, D) of whole texts. Special tokens that stand in a text are dropped.

        Args:
            on_progress: called with the size of each batch that is done.
        """
        plain = [self.without_specials(text) for text in texts]
        vectors = []
        for start in range(0, len(plain), batch_size):
            vectors.append(self.text_vectors(plain[start : start + batch_size]))
            on_progress(len(vectors[-1]))
        return torch.cat(vectors) if vectors else torch.empty(0, self.width, device=self.device)

    @torch.inference_mode()
    def encode_text_groups(self, groups: Sequence[Sequence[str]]) -> list[Tensor]:
        """:meth:`encode_texts` of each group, (N, D) each; what texts of a group begin with is run once."""
        plain = [[self.without_specials(text) for text in group] for group in groups]
        texts = [text for group in plain for text in group]
        if self.text_tower is None or not texts:
            return [*self.encode_texts(texts).split(list(map(len, groups)))]
        rows = iter([self.text_tower.cut(row) for row in self.tokenize(texts)])
        return encode_groups(self.text_tower, [[next(rows) for _ in group] for group in plain])

    def similarity(self, images: Sequence[ImageSource], texts: Sequence[str]) -> Tensor:
        """Cosines (number of pictures, number of texts)."""
        return self.encode_images(images) @ self.encode_texts(texts).T

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, start and end token included; padding may follow."""
        return self._tokens.encode(texts)

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many texts have more tokens than the text tower reads, so that their ends count for nothing."""
        return self._tokens.count_cut(texts)

    def without_specials(self, text: str) -> str:
        """The text as towers read it: what would read as a special token dropped, however often escaped."""
        return self._tokens.without_specials(text)

    def incremental_text_encoder(self) -> IncrementalTextEncoder:
        """An encoder of growing captions, exact whatever the tower (see :class:`IncrementalTextEncoder`)."""
        return IncrementalTextEncoder(self.tokenize, self.text_vectors, self.text_tower)

    @property
    def width(self) -> int:
        """D, the embedding width."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def side(self) -> int:
        """Side of the square picture that the image tower reads, the longer one where it is no square."""
        size = self.config["preprocess_cfg"]["size"]
        return size if isinstance(size, int) else max(size)

    def _require_unit_vectors(self, what: str) -> None:
        """Refuse towers whose numbers break on the way, or are zero: one picture and one text are tried."""
        size = self.config["preprocess_cfg"]["size"]
        height, width = (size, size) if isinstance(size, int) else size
        ramp = torch.linspace(-1, 1, height * width).view(1, 1, height, width).expand(-1, 3, -1, -1)
        require_unit(self.encode_pixels(ramp), f"image tower of the {what}")
        require_unit(self.encode_texts(["a dog runs"]), f"text tower of the {what}")

    def text_vectors(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (N, D) of texts that hold no special tokens, all at once; differentiable."""
        if self.text_tower is None:
            return self._encode_in_full(texts)
        return self.text_tower.encode([self.text_tower.cut(row) for row in self.tokenize(texts)])

    def _encode_in_full(self, texts: Sequence[str]) -> Tensor:
        features = encode_whole(self._network, self._tokens.padded(texts).to(self.device))
        return F.normalize(features.float(), dim=-1)

    @torch.inference_mode()
    def _confirmed_tower(self) -> CausalTextTower | None:
        """The causal tower, if it gives what the model's own encoder gives for a few texts."""
        tower = CausalTextTower.of(self._network)
        if tower is None:
            return None
        encoder = IncrementalTextEncoder(self.tokenize, self.text_vectors, tower)
        tolerance = 1e-4 if self.dtype == torch.float32 else 3e-2
        prefix, caption = EncodedText(), ""
        for texts in _PROBES:
            extension = encoder.extend([prefix], [caption], [texts])
            error = (extension.vectors[0] - self._encode_in_full(texts)).abs().max()
            if not error <= tolerance:
                _log.warning(
                    "the scorer's text tower differs by %.1e from its own encoder; every candidate will be "
                    "encoded in full, which is exact but slower",
                    error,
                )
                return None
            (prefix,), caption = extension.prefixes, texts[1]
        return tower


def text_fingerprint(model: nn.Module) -> str:
    """Twelve digits of all weights of an open_clip model that its text vectors come from."""
    state = model.state_dict()
    return fingerprint_of_weights(
        (name, state[name]) for name in state if not name.startswith(("visual.", "logit_"))
    )
