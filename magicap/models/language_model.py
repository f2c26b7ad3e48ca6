"""A causal language model of the GPT-2 kind behind few methods: start, extend, choose, text.

Everything here is pure: a state is never changed in place, so states may be kept and shared.

Shapes: B prefixes, K candidates, N of them chosen, T tokens of a prefix, D hidden width, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from magicap.arrays import IntArray
from magicap.errors import BadModel, BadSettings, BrokenNumbers
from magicap.files import open_to_readers
from magicap.models.caption_tokens import CaptionTokens
from magicap.models.causal_check import require_same_as_forward
from magicap.models.causal_steps import CausalSteps
from magicap.models.finite import require_finite
from magicap.models.language_files import add_rows, kind_of, most_tokens, read_language_model
from magicap.models.loading import explain_loading_errors, no_loading_bar
from magicap.models.plain_gpt2 import Gpt2Folder
from magicap.models.plain_tokenizer import PlainTokenizer
from magicap.models.prefixes import Extension, Prefixes
from magicap.models.soft_prompt import PROMPT_FILE, SoftPrompt
from magicap.models.token_cache import TokenCache
from magicap.models.topk import topk
from magicap.packed_texts import PackedTexts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START_TOKEN = "<-start_of_text->"
PAD_TOKEN = "<-pad->"
END_TOKEN = "<|endoftext|>"

_log = logging.getLogger(__name__)
_building = threading.Lock()


class LanguageModel:
    """A transformers causal language model with its tokenizer.

    Attributes:
        model: a ``transformers`` model, e.g. ``GPT2LMHeadModel``, built when it is first asked for where
            the folder could be read without transformers.
        tokenizer: its tokenizer, in the same way.
        start_id, pad_id, end_id: ids of the start, pad and end token.
        max_new_tokens: how many tokens fit behind the start token.
        soft_prompt: by which it can be conditioned on a picture; None: it cannot.

    The published start and pad tokens are added where the tokenizer lacks them; a start token that was
    added here is untrained, so such a model must be tuned before it can caption.

    Args:
        model: transformers' own, or what :attr:`model` is to be made of when it is asked for.
        tokenizer: the same.

    Raises:
        BadModel: no end token, or a model that does not work as GPT-2 does.
    """

    def __init__(
        self,
        model: PreTrainedModel | Gpt2Folder,
        tokenizer: PreTrainedTokenizerBase | PlainTokenizer,
        soft_prompt: SoftPrompt | None = None,
    ) -> None:
        self._unbuilt = model if isinstance(model, Gpt2Folder) else None
        self._network: Any = model.model if isinstance(model, Gpt2Folder) else model.eval()
        self._tokens = CaptionTokens(tokenizer)
        self.soft_prompt = soft_prompt
        self._add_missing_tokens()
        self._steps_of = CausalSteps(self._network)
        self.start_id = tokenizer.get_vocab()[START_TOKEN]
        self.pad_id = tokenizer.get_vocab()[PAD_TOKEN]
        self.end_id = self._find_end_id()
        self.max_new_tokens = most_tokens(self._network) - 1
        if soft_prompt is not None:
            soft_prompt.require_width(self.width)
        self._special_ids = {*tokenizer.all_special_ids, self.start_id, self.pad_id, self.end_id}
        require_same_as_forward(self._network, self._walk)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
    ) -> LanguageModel:
        """Load from a folder or from the hub.

        Args:
            source: a folder that ``save_pretrained`` wrote, or a hub id (``cambridgeltl/magic_mscoco``).
            revision: commit, branch or tag of the hub's repository; None takes the newest.

        Raises:
            ModelNotFound: no such folder, or the hub cannot be reached and nothing is cached.
            BadModel: not a causal language model of the GPT-2 kind, incomplete, with broken weights, or an
                unsafe pickle.
        """
        with explain_loading_errors("language model", str(source)):
            model, tokenizer = read_language_model(source, {START_TOKEN, PAD_TOKEN}, dtype, revision)
            network = model.model if isinstance(model, Gpt2Folder) else model
            require_finite(network, f"language model {str(source)!r}")
            prompt = SoftPrompt.from_pretrained(source) if (Path(source) / PROMPT_FILE).is_file() else None
            network.to(device)
            return cls(model, tokenizer, prompt and prompt.to(device, dtype))

    @property
    def model(self) -> Any:
        """The transformers model; one that was loaded without transformers is built when first asked for."""
        if self._unbuilt is not None:
            with _building:
                if self._unbuilt is not None:
                    self._network, self._unbuilt = self._unbuilt.whole(), None
        return self._network

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, built in the same way."""
        return self._tokens.whole()

    @property
    def network(self) -> nn.Module:
        """What it computes with: :attr:`model`, or what stands for it while nobody has asked for that."""
        network: nn.Module = self._network
        return network

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write model (safetensors), prompt and tokenizer into a folder, in ``dtype`` where given."""
        model = self.model if dtype is None else copy.deepcopy(self.model).to(dtype)
        with no_loading_bar():
            model.save_pretrained(str(folder))
        if self.soft_prompt is not None:
            self.soft_prompt.save_pretrained(folder, dtype=dtype)
        else:
            (Path(folder) / PROMPT_FILE).unlink(missing_ok=True)  # of a model that was saved here before
        open_to_readers(folder)
        self.tokenizer.save_pretrained(str(folder))

    def to_train(self) -> LanguageModel:
        """A copy in float32, whatever this one computes in, whose weights can learn."""
        trained = copy.deepcopy(self)
        trained.model.float().requires_grad_(True)
        trained._steps_of = CausalSteps(trained.model)
        if trained.soft_prompt is not None:
            trained.soft_prompt.float().requires_grad_(True)
        return trained

    def to_caption(self, dtype: torch.dtype) -> LanguageModel:
        """This one after :meth:`to_train`, in ``dtype`` and no longer learning."""
        self.model.to(dtype).eval().requires_grad_(False)
        if self.soft_prompt is not None:
            self.soft_prompt.to(dtype).eval().requires_grad_(False)
        return self

    def to_int8(self) -> LanguageModel:
        """This one with its blocks' linear layers and its output head in int8, on a processor.

        Its weights stay as they are: they are what is saved and trained.

        Raises:
            BadSettings: it is no plain GPT-2 in float32.
        """
        if not self._steps.is_plain or self.dtype != torch.float32:
            kind = kind_of(self._network)
            raise BadSettings(
                f"int8 takes a plain GPT-2 in float32, found {kind} in {self.dtype}; use another dtype"
            )
        self._steps_of = CausalSteps(self._network, int8=True)
        return self

    def in_float32(self) -> LanguageModel:
        """A copy that computes in float32; where this one does so in int8, of the same weights."""
        if not self._steps.is_int8:
            return copy.deepcopy(self).to_caption(torch.float32)
        exact = copy.copy(self)
        exact._steps_of = CausalSteps(self._network)
        return exact

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self._network.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        dtype: torch.dtype = self._network.dtype
        return torch.int8 if self._steps_of.is_int8 else dtype

    @property
    def width(self) -> int:
        """D, of its hidden states."""
        return int(self._network.get_input_embeddings().weight.shape[1])

    @property
    def vocabulary_size(self) -> int:
        """V, how many tokens the output head tells apart."""
        return int(self._network.get_output_embeddings().weight.shape[0])

    @torch.inference_mode()
    def start(self, prompts: Tensor | None = None) -> Prefixes:
        """Prefixes that hold the start token alone: one, or B that are conditioned.

        Args:
            prompts: (B, D) of :attr:`soft_prompt`.
        """
        count = 1 if prompts is None else len(prompts)
        ids = torch.full((count, 1), self.start_id, device=self.device)
        hidden, cache = self._steps.side_by_side(ids, (), position=0, prompts=prompts)
        return Prefixes(ids, F.normalize(hidden.float(), dim=-1), hidden[:, -1], cache)

    @torch.inference_mode()
    def next_token_probabilities(self, last: Tensor) -> Tensor:
        """(N, V) softmax of the next token, in float32, of last hidden states (N, D): the output head.

        A row whose numbers broke is NaN throughout.
        """
        return torch.softmax(self._steps.logits(last).float(), dim=-1)

    @torch.inference_mode()
    def likeliest(self, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The largest of :meth:`next_token_probabilities`, falling, and their token ids; each (N, count)."""
        return topk(self.next_token_probabilities(last), min(count, self.vocabulary_size))

    @torch.inference_mode()
    def probabilities(self, last: Tensor) -> Tensor:
        """:meth:`next_token_probabilities`, all of which must be finite.

        Raises:
            BrokenNumbers: a row's are not.
        """
        probabilities = self.next_token_probabilities(last)
        if bool(probabilities[:, 0].isnan().any()):
            raise BrokenNumbers("expected finite logits of the language model, found NaN or infinity")
        return probabilities

    @torch.inference_mode()
    def extend(self, prefixes: Prefixes, candidates: Tensor) -> Extension:
        """Run each prefix's K candidates, (B, K) ids, side by side in one row.

        Every candidate sees the prefix and itself, not its neighbours: nothing cached is copied K times.
        """
        length = prefixes.ids.shape[1]
        self.require_room(length)
        hidden, cache = self._steps.side_by_side(candidates, prefixes.cache, position=length)
        return Extension(prefixes, candidates, hidden, cache)

    def append(self, prefixes: Prefixes, token: int) -> Prefixes:
        """The prefixes grown by the same token each."""
        column = torch.full_like(prefixes.ids[:, :1], token)
        return self.choose(self.extend(prefixes, column), torch.zeros_like(column[:, 0]))

    @torch.inference_mode()
    def choose(self, extension: Extension, choice: Tensor) -> Prefixes:
        """The prefixes grown by one candidate each.

        Args:
            choice: (B,) which of the K candidates.
        """
        before = extension.prefixes
        length = before.ids.shape[1]
        rows = torch.arange(len(choice), device=choice.device)
        raw = extension.raw_hidden[rows, choice]
        return Prefixes(
            torch.cat([before.ids, extension.candidates[rows, choice, None]], dim=1),
            torch.cat([before.hidden, F.normalize(raw.float(), dim=-1)[:, None]], dim=1),
            raw,
            tuple(
                (_keep(keys, length, choice), _keep(values, length, choice))
                for keys, values in extension.cache
            ),
        )

    def require_room(self, tokens: int) -> None:
        """Refuse captions longer than the context, best before any work is done.

        Raises:
            BadSettings: so many tokens do not fit behind the start token.
        """
        if tokens > self.max_new_tokens:
            raise BadSettings(
                f"max_new_tokens must be at most {self.max_new_tokens} with this language model, "
                f"found {tokens}"
            )

    def encode_prefix(self, prefix: str, max_new_tokens: int, behind: str = "") -> list[int]:
        """Token ids of what a caption begins with, behind the start token.

        Args:
            prefix: plain text.
            max_new_tokens: for how many more there must be room.
            behind: stands behind it; special tokens may be written in it.

        Raises:
            BadSettings: there is not, or a special token is written in the prefix.
        """
        self._tokens.require_plain_text(prefix, START_TOKEN, PAD_TOKEN, END_TOKEN)
        text = (prefix + behind).strip()
        ids = self._tokens.encode([text])[0] if text else []
        if ids and len(ids) + max_new_tokens > self.max_new_tokens:
            raise BadSettings(
                f"expected a prefix and max_new_tokens of at most {self.max_new_tokens} tokens together with "
                f"this language model, found {len(ids)} and {max_new_tokens}; shorten one of them"
            )
        self.require_room(max_new_tokens)
        return ids

    def text(self, ids: Sequence[int] | Tensor) -> str:
        """The words of a token sequence, special tokens left out.

        A whole sequence at a time: one token may hold half a letter.
        """
        return self.texts([ids])[0]

    def texts(self, batch: Sequence[Sequence[int] | Tensor]) -> list[str]:
        """As :meth:`text`, for many sequences at once."""
        return self._tokens.decode(batch, self._special_ids)

    def encode_captions(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of whole captions, between the start and the end token."""
        return [[self.start_id, *ids, self.end_id] for ids in self._tokens.encode(captions)]

    def encode_packed(self, captions: PackedTexts) -> tuple[IntArray, IntArray]:
        """The same ids as :meth:`encode_captions` gives, of many captions that share their words.

        Returns:
            Token ids of all captions, one behind the other, and how many each has (N,).
        """
        return self._tokens.encode_packed(captions, self.start_id, self.end_id)

    def partial_texts(self, batch: Sequence[Sequence[int] | Tensor]) -> list[str]:
        """As :meth:`texts`, without a last letter of which only the first bytes have been chosen."""
        return [text.rstrip("\ufffd") for text in self.texts(batch)]

    def new_cache(self, capacity: int) -> TokenCache:
        """What :meth:`step` keeps keys and values in.

        Args:
            capacity: columns of a row, at most.
        """
        return self._steps.new_cache(capacity)

    @torch.inference_mode()
    def step(
        self,
        ids: Tensor,
        position: int,
        visible: Tensor | None,
        cache: TokenCache,
        prompts: Tensor | None = None,
    ) -> Tensor:
        """See :meth:`CausalSteps.step`."""
        return self._steps.step(ids, position, visible, cache, prompts)

    @property
    def _steps(self) -> CausalSteps:
        """Of the network as it is now: :attr:`model` may have taken the place of what stood for it."""
        if self._steps_of.network is not self._network:
            self._steps_of = CausalSteps(self._network, int8=self._steps_of.is_int8)
        return self._steps_of

    def _add_missing_tokens(self) -> None:
        tokenizer = self._tokens.tokenizer
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in (START_TOKEN, PAD_TOKEN) if token not in vocabulary]
        if missing:
            tokenizer.add_tokens(missing)
            _log.warning("the language model's tokenizer lacked %s; added, untrained", " and ".join(missing))
        if len(tokenizer) > self._network.get_input_embeddings().weight.shape[0]:
            add_rows(self._network, len(tokenizer))

    def _find_end_id(self) -> int:
        tokenizer = self._tokens.tokenizer
        end = tokenizer.eos_token_id
        if end is None:
            end = tokenizer.get_vocab().get(END_TOKEN)
        if end is None:
            raise BadModel(
                f"the language model's tokenizer has no end token; expected an eos_token or {END_TOKEN!r}"
            )
        return int(end)

    def _walk(self) -> tuple[Prefixes, Tensor]:
        """A prefix of a few tokens, and the probabilities of the next.

        Of other architectures than GPT-2 of more tokens: some look back at a window alone.
        """
        prefixes, tokens = self.start(), torch.tensor([[self.end_id, self.start_id]], device=self.device)
        for step in range(1 if self._steps.is_plain else min(12, self.max_new_tokens)):
            choice = torch.tensor([(step + 1) % 2], device=self.device)
            prefixes = self.choose(self.extend(prefixes, tokens), choice)
        return prefixes, self.probabilities(prefixes.last)


def _keep(states: Tensor, length: int, choice: Tensor) -> Tensor:
    """From (B, heads, T + K, d), the T of the prefix and the chosen one of the K."""
    rows = torch.arange(len(choice), device=choice.device)
    return torch.cat([states[:, :, :length], states[rows, :, length + choice][:, :, None]], dim=2)
