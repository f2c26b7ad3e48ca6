"""A tokenizer of transformers, read by the library tokenizers alone, which takes no time to import.

Only folders whose ``tokenizer.json`` says all that counts are read so; :meth:`PlainTokenizer.whole` gives
transformers' own tokenizer to who asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from magicap.reading import LARGEST_MODEL_TEXT, read_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer_config.json"

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_PLAIN_KINDS = ("TokenizersBackend", "PreTrainedTokenizerFast")
_GPT2 = "GPT2Tokenizer"
_GPT2_SETTINGS = {"add_prefix_space": False, "errors": "replace"}
_GPT2_NAMED = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
"""What transformers takes these to be where settings do not say."""

_GPT2_MODEL = {"type": "BPE", "dropout": None, "unk_token": None} | dict.fromkeys(
    ("fuse_unk", "byte_fallback", "ignore_merges"), False
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_WITHOUT_EFFECT: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("backend", "tokenizer_class", "truncation_strategy"), (str,)),
    **dict.fromkeys(("clean_up_tokenization_spaces", "is_local", "local_files_only"), (bool,)),
    **dict.fromkeys(("max_length", "model_max_length", "pad_token_type_id", "stride"), (int,)),
    "pad_to_multiple_of": (int, type(None)),
}
"""Settings and their types that change no id of a text, nor what ids are decoded to as is done here."""

_SIDES = {"padding_side": "right", "truncation_side": "right"}
_OTHER_FILES = ("added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt")
"""Files from which transformers would take tokens as well."""


@dataclass(eq=False)
class PlainTokenizer:
    """The few methods of a tokenizer of transformers that captioning needs, by the same names.

    Attributes:
        backend_tokenizer: of the library tokenizers; without truncation and padding.
        named: special tokens by what they are: ``eos_token``, ...
    """

    backend_tokenizer: Tokenizer
    named: dict[str, str]
    source: str
    """The folder that it was read from."""

    files: dict[str, str]
    """Contents of the folder's files by name, of which :meth:`whole` makes transformers' tokenizer."""

    @classmethod
    def read(cls, folder: str | Path) -> PlainTokenizer | None:
        """The tokenizer of a folder; None where transformers has to say what it does, or what is wrong."""
        folder = Path(folder)
        if any((folder / name).exists() for name in _OTHER_FILES):
            return None
        try:
            files = {
                name: read_text(folder / name, LARGEST_MODEL_TEXT) for name in (TOKENIZER_FILE, SETTINGS_FILE)
            }
            settings = _settings(json.loads(files[SETTINGS_FILE]), files[TOKENIZER_FILE])
            backend = Tokenizer.from_str(files[TOKENIZER_FILE])
        except Exception:  # tokenizers raises no narrower kind
            return None
        named = _named_tokens(settings, backend)
        if named is None or not _is_usual(backend, named):
            return None
        backend.no_truncation()  # transformers too cuts and pads only where a call asks for it
        backend.no_padding()
        return cls(backend, named, str(folder), files)

    def whole(self) -> PreTrainedTokenizerBase:
        """Transformers' own tokenizer."""
        from transformers import AutoTokenizer

        with self.unpacked() as folder:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        tokenizer.name_or_path = self.source
        return tokenizer

    @contextmanager
    def unpacked(self) -> Iterator[str]:
        """A folder of its files, for a while; in the one that it was read from others may stand by now."""
        with TemporaryDirectory() as folder:
            for name, text in self.files.items():
                (Path(folder) / name).write_text(text, encoding="utf-8", newline="")
            yield folder

    def __len__(self) -> int:
        return self.backend_tokenizer.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Ids by token."""
        return self.backend_tokenizer.get_vocab()

    @property
    def all_special_tokens(self) -> list[str]:
        """Each named special token once."""
        return list(dict.fromkeys(self.named.values()))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of :attr:`all_special_tokens`."""
        return [self.id_of(token) for token in self.all_special_tokens]

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end token; None where none is named."""
        return self.id_of(self.named["eos_token"]) if "eos_token" in self.named else None

    @property
    def pad_token_id(self) -> int | None:
        """Id of the pad token; None where none is named."""
        return self.id_of(self.named["pad_token"]) if "pad_token" in self.named else None

    def id_of(self, token: str) -> int:
        """The id of a token that the vocabulary has."""
        number = self.backend_tokenizer.token_to_id(token)
        assert number is not None
        return number

    def batch_decode(
        self, batch: Sequence[Sequence[int]], *, clean_up_tokenization_spaces: bool = False
    ) -> list[str]:
        """The text of each of many sequences of ids."""
        assert not clean_up_tokenization_spaces
        return self.backend_tokenizer.decode_batch(list(map(list, batch)), skip_special_tokens=False)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, with those that the tokenizer puts around it."""
        return [row.ids for row in self.backend_tokenizer.encode_batch_fast(list(texts))]

    def encode_within(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """As :meth:`encode`, texts cut so that each has at most ``length`` ids."""
        cutting: dict[str, Any] | None = self._cutting.truncation
        if cutting is None or cutting["max_length"] != length:
            self._cutting.enable_truncation(length)
        return [row.ids for row in self._cutting.encode_batch_fast(list(texts))]

    @cached_property
    def _cutting(self) -> Tokenizer:
        """Another tokenizer of the same file: cutting is a state of it."""
        cutting: Tokenizer = Tokenizer.from_str(self.files[TOKENIZER_FILE])
        cutting.no_truncation()
        cutting.no_padding()
        return cutting


def _settings(settings: Any, tokenizer: str) -> Any:
    """Settings of a GPT-2 tokenizer as those of the general kind, where its file describes what that does."""
    if not isinstance(settings, dict) or settings.get("tokenizer_class") != _GPT2:
        return settings
    parts = json.loads(tokenizer)
    model, before, after = parts["model"], parts["pre_tokenizer"], parts["post_processor"] or {}
    usual = (
        all(repr(settings.get(name, value)) == repr(value) for name, value in _GPT2_SETTINGS.items())
        and all(model[name] == value for name, value in _GPT2_MODEL.items())
        and not model["continuing_subword_prefix"]
        and not model["end_of_word_suffix"]
        and all(before[name] == value for name, value in _BYTE_LEVEL.items())
        and parts["decoder"]["type"] == "ByteLevel"
        and parts["normalizer"] is None
        and not after.get("special_tokens")
    )
    if not usual:
        return None
    general = {name: value for name, value in settings.items() if name not in _GPT2_SETTINGS}
    return {**_GPT2_NAMED, **general, "tokenizer_class": _PLAIN_KINDS[0]}


def _is_usual(backend: Tokenizer, named: dict[str, str]) -> bool:
    """Whether a tokenizer that was saved while it cut or padded did so on the right, by its pad token."""
    cut, pad = backend.truncation or {}, backend.padding or {}
    sides = {cut.get("direction", "right"), pad.get("direction", "right")}
    return sides == {"right"} and pad.get("pad_token", named.get("pad_token")) == named.get("pad_token")


def _named_tokens(settings: Any, backend: Tokenizer) -> dict[str, str] | None:
    """The special tokens that settings name; None where settings or tokens are not plain."""
    if not isinstance(settings, dict) or settings.get("tokenizer_class") not in _PLAIN_KINDS:
        return None
    others = settings.keys() - _SIDES.keys() - set(_NAMED)
    if any(type(settings[name]) not in _WITHOUT_EFFECT.get(name, ()) for name in others):
        return None
    if any(settings.get(name, side) != side for name, side in _SIDES.items()):
        return None
    named = {name: settings[name] for name in _NAMED if settings.get(name) is not None}
    special = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
    return named if all(isinstance(t, str) and t in special for t in named.values()) else None
