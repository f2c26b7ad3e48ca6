"""A causal language model of the GPT-2 kind behind few methods: start, extend, choose, text.

Everything here is pure: a state is never changed in place, so states may be kept and shared.

Shapes: B prefixes, K candidates, N of them chosen, T tokens of a prefix, D hidden width, V vocabulary.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from magicap.arrays import BoolArray, IntArray
from magicap.errors import BadModel, BadSettings, BrokenNumbers
from magicap.files import open_to_readers
from magicap.models.finite import require_finite, require_unit
from magicap.models.gpt2 import Gpt2Blocks
from magicap.models.loading import explain_loading_errors, no_loading_bar
from magicap.models.prefixes import Extension, Prefixes
from magicap.models.soft_prompt import PROMPT_FILE, SoftPrompt
from magicap.models.token_cache import ConcatenatedCache, GrowingCache, KeysAndValues, TokenCache
from magicap.models.topk import topk
from magicap.packed_texts import PackedTexts, Vocabulary, WordExpansion, replace_runs, sums_of_runs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

START_TOKEN = "<-start_of_text->"
PAD_TOKEN = "<-pad->"
END_TOKEN = "<|endoftext|>"

_log = logging.getLogger(__name__)


class LanguageModel:
    """A transformers causal language model with its tokenizer.

    Attributes:
        model: a ``transformers`` model, e.g. ``GPT2LMHeadModel``.
        tokenizer: its tokenizer.
        start_id, pad_id, end_id: ids of the start, pad and end token.
        max_new_tokens: how many tokens fit behind the start token.
        soft_prompt: by which it can be conditioned on a picture; None: it cannot.

    The published start and pad tokens are added where the tokenizer lacks them; a start token that was
    added here is untrained, so such a model must be tuned before it can caption.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        soft_prompt: SoftPrompt | None = None,
    ) -> None:
        """
        Raises:
            BadModel: no end token, or a model that does not work as GPT-2 does.
        """
        self.model: Any = model.eval()
        self._blocks_of: tuple[Any, Gpt2Blocks | None] | None = None
        self._word_tokens: tuple[Vocabulary, WordExpansion, BoolArray] | None = None
        self.tokenizer = tokenizer
        self.soft_prompt = soft_prompt
        self._add_missing_tokens()
        self.start_id = tokenizer.get_vocab()[START_TOKEN]
        self.pad_id = tokenizer.get_vocab()[PAD_TOKEN]
        self.end_id = self._find_end_id()
        self.max_new_tokens = self._find_room()
        if soft_prompt is not None:
            soft_prompt.require_width(self.model.get_input_embeddings().weight.shape[1])
        self._special_ids = {*tokenizer.all_special_ids, self.start_id, self.pad_id, self.end_id}
        self._confirm()

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
        with explain_loading_errors("language model", str(source)), no_loading_bar():
            from transformers import AutoModelForCausalLM, AutoTokenizer

            commit = revision or "main"
            tokenizer = AutoTokenizer.from_pretrained(str(source), revision=commit)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                str(source), revision=commit, dtype=dtype, weights_only=True, output_loading_info=True
            )
            model, info = loaded
            if missing := sorted({*info["missing_keys"], *map(str, info["mismatched_keys"])}):
                raise BadModel(f"the weights of language model {str(source)!r} lack {', '.join(missing[:5])}")
            require_finite(model, f"language model {str(source)!r}")
            prompt = SoftPrompt.from_pretrained(source) if (Path(source) / PROMPT_FILE).is_file() else None
            return cls(model.to(device), tokenizer, prompt and prompt.to(device, dtype))

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
        if trained.soft_prompt is not None:
            trained.soft_prompt.float().requires_grad_(True)
        return trained

    def to_caption(self, dtype: torch.dtype) -> LanguageModel:
        """This one after :meth:`to_train`, in ``dtype`` and no longer learning."""
        self.model.to(dtype).eval().requires_grad_(False)
        if self.soft_prompt is not None:
            self.soft_prompt.to(dtype).eval().requires_grad_(False)
        return self

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @property
    def vocabulary_size(self) -> int:
        """V, how many tokens the output head tells apart."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @torch.inference_mode()
    def start(self, prompts: Tensor | None = None) -> Prefixes:
        """Prefixes that hold the start token alone: one, or B that are conditioned.

        Args:
            prompts: (B, D) of :attr:`soft_prompt`.
        """
        count = 1 if prompts is None else len(prompts)
        ids = torch.full((count, 1), self.start_id, device=self.device)
        hidden, cache = self._forward(ids, (), position=0, prompts=prompts)
        return Prefixes(ids, F.normalize(hidden.float(), dim=-1), hidden[:, -1], cache)

    @torch.inference_mode()
    def next_token_probabilities(self, last: Tensor) -> Tensor:
        """(N, V) softmax of the next token, in float32, of last hidden states (N, D): the output head.

        A row whose numbers broke is NaN throughout.
        """
        head: Any = self.model.get_output_embeddings()
        return torch.softmax(head(last).float(), dim=-1)

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
        hidden, cache = self._forward(candidates, prefixes.cache, position=length)
        return Extension(prefixes, candidates, hidden, cache)

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

    def text(self, ids: Sequence[int] | Tensor) -> str:
        """The words of a token sequence, special tokens left out.

        A whole sequence at a time: one token may hold half a letter.
        """
        return self.texts([ids])[0]

    def texts(self, batch: Sequence[Sequence[int] | Tensor]) -> list[str]:
        """As :meth:`text`, for many sequences at once."""
        if not len(batch):
            return []
        words = [[int(i) for i in ids if int(i) not in self._special_ids] for ids in batch]
        texts: list[str] = self.tokenizer.batch_decode(words, clean_up_tokenization_spaces=False)
        return texts

    def encode_captions(self, captions: Sequence[str]) -> list[list[int]]:
        """Token ids of whole captions, between the start and the end token."""
        return [[self.start_id, *ids, self.end_id] for ids in self._encode(captions)]

    def encode_packed(self, captions: PackedTexts) -> tuple[IntArray, IntArray]:
        """The same ids as :meth:`encode_captions` gives, of many captions that share their words.

        Returns:
            Token ids of all captions, one behind the other, and how many each has (N,).
        """
        if not self._splits_at_spaces:
            rows = self.encode_captions(captions)
            lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
            return np.array([token for ids in rows for token in ids], dtype=np.int64), lengths
        words, V = captions.vocabulary.words, len(captions.vocabulary)
        if self._word_tokens is None or self._word_tokens[0] is not captions.vocabulary:
            whole = captions.vocabulary.where(lambda word: not word or not word.isprintable())
            self._word_tokens = captions.vocabulary, WordExpansion(2 * V), whole
        _, expansion, whole = self._word_tokens

        def work_out(numbers: list[int]) -> list[list[int]]:
            # the first V words begin a caption, the others stand behind a space
            return self._encode([words[n] if n < V else f" {words[n - V]}" for n in numbers])

        numbers = captions.numbers.astype(np.int64) + V
        numbers[captions.starts[:-1]] -= V
        tokens, counts = expansion.expand(numbers, work_out)
        lengths = sums_of_runs(counts, captions.starts)
        odd = np.flatnonzero(captions.any_word(whole)).tolist()
        others = self._encode([captions[number] for number in odd])
        tokens, lengths = replace_runs(tokens, lengths, dict(zip(odd, others, strict=True)))
        lengths = lengths + 2
        ends = np.cumsum(lengths)
        framed = np.full(int(lengths.sum()), self.start_id, dtype=np.int64)
        framed[ends - 1] = self.end_id
        inside = np.ones(len(framed), dtype=bool)
        inside[ends - 1] = inside[ends - lengths] = False
        framed[inside] = tokens
        return framed, lengths

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts, without any special token."""
        if not texts:
            return []
        fast: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is not None and fast.truncation is None and fast.padding is None:
            # The same ids without masks and offsets, which take most of the time.
            return [row.ids for row in fast.encode_batch_fast(list(texts), add_special_tokens=False)]
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False).input_ids
        return ids

    @cached_property
    def _splits_at_spaces(self) -> bool:
        """Whether the tokens of printable words behind single spaces are those of the text: GPT-2's BPE."""
        fast: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        before: Any = None if fast is None else fast.pre_tokenizer
        if type(before).__name__ != "ByteLevel" or before.add_prefix_space or not before.use_regex:
            return False
        added = fast.get_added_tokens_decoder().values()
        return fast.normalizer is None and not any(
            token.lstrip or token.rstrip or token.single_word or " " in token.content for token in added
        )

    def partial_texts(self, batch: Sequence[Sequence[int] | Tensor]) -> list[str]:
        """As :meth:`texts`, without a last letter of which only the first bytes have been chosen."""
        return [text.rstrip("\ufffd") for text in self.texts(batch)]

    def new_cache(self, capacity: int) -> TokenCache:
        """What :meth:`step` keeps keys and values in.

        Args:
            capacity: columns of a row, at most.
        """
        if self._blocks is not None:
            return GrowingCache(capacity)
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        return cache  # type: ignore[no-any-return]

    @torch.inference_mode()
    def step(
        self,
        ids: Tensor,
        position: int,
        visible: Tensor | None,
        cache: TokenCache,
        prompts: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states (B, Q, D), as the output head reads them, of tokens that stand at one position.

        Args:
            ids: (B, Q) of the tokens.
            position: how many tokens stand before each.
            visible: (B or 1, 1, Q, P + Q) which columns of the cache, themselves included, each of them sees;
                None: all.
            cache: of the P columns before, which takes up theirs.
            prompts: (B, D) of :attr:`soft_prompt`, added to each row's embeddings.
        """
        embeddings = self.model.get_input_embeddings()(ids)
        if prompts is not None:
            embeddings = embeddings + prompts[:, None].to(embeddings)
        mask = None
        if visible is not None:
            least = torch.finfo(embeddings.dtype).min
            mask = torch.zeros_like(visible, dtype=embeddings.dtype).masked_fill_(~visible, least)
        if self._blocks is not None:
            return self._blocks(embeddings, position, mask, cache)
        output: Any = self.model.base_model(
            inputs_embeds=embeddings,
            past_key_values=cache,
            position_ids=torch.full_like(ids, position),
            attention_mask=mask,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _forward(
        self, ids: Tensor, past: tuple[KeysAndValues, ...], position: int, prompts: Tensor | None = None
    ) -> tuple[Tensor, tuple[KeysAndValues, ...]]:
        """Hidden states (B, K, D) and grown cache of tokens that see their prefix, but not each other."""
        width = ids.shape[1]
        visible = torch.eye(width, position + width, dtype=torch.bool, device=ids.device).roll(position, 1)
        visible[:, :position] = True
        if self._blocks is not None:
            grown = ConcatenatedCache(past)
            return self.step(ids, position, visible[None, None], grown, prompts), tuple(grown.layers)
        cache: Any = self.new_cache(position + width)
        for layer, (keys, values) in enumerate(past):
            cache.update(keys, values, layer)
        hidden = self.step(ids, position, visible[None, None], cache, prompts)
        return hidden, tuple((layer.keys, layer.values) for layer in cache.layers)

    @property
    def _blocks(self) -> Gpt2Blocks | None:
        """A step of our own, where the model is a plain GPT-2."""
        if self._blocks_of is None or self._blocks_of[0] is not self.model:
            self._blocks_of = self.model, Gpt2Blocks.of(self.model)
        return self._blocks_of[1]

    def _add_missing_tokens(self) -> None:
        vocabulary = self.tokenizer.get_vocab()
        missing = [token for token in (START_TOKEN, PAD_TOKEN) if token not in vocabulary]
        if missing:
            self.tokenizer.add_tokens(missing)
            _log.warning("the language model's tokenizer lacked %s; added, untrained", " and ".join(missing))
        rows = self.model.get_input_embeddings().weight.shape[0]
        if len(self.tokenizer) > rows:
            self.model.resize_token_embeddings(len(self.tokenizer))

    def _find_end_id(self) -> int:
        end = self.tokenizer.eos_token_id
        if end is None:
            end = self.tokenizer.get_vocab().get(END_TOKEN)
        if end is None:
            raise BadModel(
                f"the language model's tokenizer has no end token; expected an eos_token or {END_TOKEN!r}"
            )
        return int(end)

    def _find_room(self) -> int:
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if not isinstance(positions, int):
            raise BadModel(
                "expected a language model with a fixed number of positions, "
                f"found {type(self.model).__name__}"
            )
        return positions - 1

    @torch.inference_mode()
    def _confirm(self) -> None:
        """Hold start, extend and choose against the model's own forward: not every causal model works so.

        Raises:
            BadModel: they disagree, so captions would silently be wrong.
        """
        token = torch.tensor([[self.end_id, self.start_id]], device=self.device)
        try:
            prefixes = self.choose(self.extend(self.start(), token), torch.tensor([1], device=self.device))
            mask = torch.ones_like(prefixes.ids)
            output: Any = self.model(prefixes.ids, attention_mask=mask)
            # Not by output_hidden_states: transformers keeps hooks for it, with which no model pickles.
            states: Any = self.model.base_model(prefixes.ids, attention_mask=mask).last_hidden_state
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            raise BadModel(f"{type(self.model).__name__} does not work as GPT-2 does: {error}") from error
        require_unit(prefixes.hidden, f"hidden states of the {type(self.model).__name__}")
        hidden = F.normalize(states.float(), dim=-1)
        probabilities = torch.softmax(output.logits[:, -1].float(), dim=-1)
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 5e-2
        wrong = max(
            (hidden - prefixes.hidden).abs().max(),
            (probabilities - self.probabilities(prefixes.last)).abs().max(),
        )
        if not wrong <= tolerance:
            raise BadModel(
                f"{type(self.model).__name__} does not work as GPT-2 does (its own output differs by "
                f"{wrong:.1e}); use a causal language model of the GPT-2 kind"
            )


def _keep(states: Tensor, length: int, choice: Tensor) -> Tensor:
    """From (B, heads, T + K, d), the T of the prefix and the chosen one of the K."""
    rows = torch.arange(len(choice), device=choice.device)
    return torch.cat([states[:, :, :length], states[rows, :, length + choice][:, :, None]], dim=2)
