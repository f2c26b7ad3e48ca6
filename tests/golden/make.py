"""Write what ``tests/parity/test_golden.py`` compares with: captions of photographs, and files of format 1.

    make golden                          # both, in two minutes on one core
    make golden ARGS="--only flickr8k"
    PYTHONPATH=tests python -m golden.make --only fixtures    # the same without make

``flickr8k`` captions the first dev pictures of Flickr8k (in ``$MAGICAP_DATA``) with the captioners that ship:
run it again whenever their weights change. ``fixtures`` writes tiny captioners, an index and kept captions as
the package writes them now, as long as that is format 1. The same package on the same machine writes the same
bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import tiny
import torch
from golden.decodings import (
    ALBUM,
    EXPECTED,
    FLICKR8K,
    FORMAT1,
    MTIME_NS,
    AnyCaptioner,
    decoding_of,
    described,
    own_decoding,
    shipped_captioners,
)
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast

from magicap import (
    Captioner,
    CaptionMemory,
    ImageTextScorer,
    LanguageModel,
    Match,
    RetrievalIndex,
    SupervisedCaptioner,
    load_captioner,
)
from magicap.data import ImageFiles, read_captions
from magicap.evaluation.systems import caption_images
from magicap.models.language_model import END_TOKEN, PAD_TOKEN, START_TOKEN
from magicap.models.soft_prompt import SoftPrompt
from magicap.supervised.decoder import DecoderConfig
from magicap.supervised.grid import GridConfig
from magicap.supervised.network import CaptionNetwork
from magicap.supervised.vocabulary import SPECIALS, Vocabulary

PICTURES, FEWER = 100, 16
SEED = 3
OWN: dict[str, Any] = {}  # stands for a captioner's own decoding
MAGIC = {"kind": "magic", "top_k": 20, "alpha": 0.1, "beta": 0.6, "max_new_tokens": 20}

# name -> captioner, decoding, how many pictures
SHIPPED: dict[str, tuple[str, dict[str, Any], int]] = {
    "own": ("embedded", OWN, PICTURES),
    "magic": ("embedded", MAGIC, PICTURES),
    "magic, prompted": ("embedded", {**MAGIC, "prompted": True}, FEWER),
    "greedy, prompted": (
        "embedded",
        {**MAGIC, "top_k": 1, "alpha": 0.0, "beta": 0.0, "prompted": True},
        FEWER,
    ),
    "beam magic with constraints": (
        "embedded",
        {
            "kind": "beam-magic",
            "memory_weight": 0.25,
            "neighbours": 800,
            "exclude": ["man", "dog"],
            "min_words": 5,
            "max_words": 8,
            "prompted": True,
        },
        FEWER,
    ),
    "beam magic with every weight": (
        "embedded",
        {
            "kind": "beam-magic",
            "top_k": 20,
            "beam_size": 4,
            "finished": 8,
            "memory_weight": 0.5,
            "image_weight": 1.0,
            "fit_weight": 2.0,
            "neighbours": 100,
            "temperature": 1.0,
            "max_new_tokens": 16,
        },
        FEWER,
    ),
    "beam magic without memory": (
        "embedded without memory",
        {"kind": "beam-magic", "top_k": 20, "beam_size": 4, "finished": 8},
        FEWER,
    ),
    "contrastive": (
        "embedded",
        {"kind": "contrastive", "top_k": 20, "alpha": 0.6, "max_new_tokens": 20},
        FEWER,
    ),
    "greedy": ("embedded", {"kind": "greedy", "max_new_tokens": 20}, FEWER),
    "top-k": ("embedded", {"kind": "top-k", "max_new_tokens": 20}, FEWER),
    "nucleus": ("embedded", {"kind": "nucleus", "max_new_tokens": 20}, FEWER),
    "nearest": ("embedded", {"kind": "nearest"}, FEWER),
    "consensus of nearest": ("embedded", {"kind": "consensus", "count": 30}, FEWER),
    "unpaired": ("unpaired", OWN, FEWER),
    "supervised": ("cnn-lstm", OWN, PICTURES),
    "supervised, greedy": ("cnn-lstm", {"kind": "beam", "beam_size": 1}, FEWER),
    "supervised, sampling": ("cnn-lstm", {"kind": "sampling", "captions": 3, "temperature": 0.8}, FEWER),
}

SHORT_MAGIC = {"kind": "magic", "top_k": 8, "alpha": 0.2, "beta": 1.0, "max_new_tokens": 8}
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "own": ("zero-shot", OWN),
    "beam magic, long captions": (
        "zero-shot",
        {"kind": "beam-magic", "top_k": 6, "beam_size": 3, "finished": 5, "neighbours": 5, "min_words": 8},
    ),
    "magic": ("zero-shot", SHORT_MAGIC),
    "magic, prompted": ("zero-shot", {**SHORT_MAGIC, "prompted": True}),
    "contrastive": ("zero-shot", {"kind": "contrastive", "top_k": 8, "alpha": 0.6, "max_new_tokens": 8}),
    "greedy": ("zero-shot", {"kind": "greedy", "max_new_tokens": 8}),
    "top-k": ("zero-shot", {"kind": "top-k", "top_k": 8, "temperature": 0.7, "max_new_tokens": 8}),
    "nucleus": ("zero-shot", {"kind": "nucleus", "top_p": 0.8, "temperature": 0.7, "max_new_tokens": 8}),
    "nearest": ("zero-shot", {"kind": "nearest"}),
    "consensus of nearest": ("zero-shot", {"kind": "consensus", "count": 5}),
    "supervised": ("supervised", OWN),
    "supervised, sampling": (
        "supervised",
        {"kind": "sampling", "captions": 2, "temperature": 0.8, "length_penalty": 0.5, "max_new_tokens": 6},
    ),
}
KEPT = ("own", "magic", "supervised")
QUERIES = ("A dog runs.", "Two children play near the sea.")
SENTENCES = [
    f"{subject} {verb} {place}."
    for subject in ("A dog", "Two children", "A man in a red shirt", "A girl", "The old woman")
    for verb in ("runs", "jumps", "plays with a ball", "sits")
    for place in ("across the grass", "near the sea", "on a rock", "in the snow")
]
REMEMBERED = SENTENCES[::3]

CONTEXT, WIDTH = 32, 24
SCORER = {
    "model_cfg": {
        "embed_dim": WIDTH,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {
            "context_length": CONTEXT,
            "width": 32,
            "heads": 2,
            "layers": 1,
            "pool_type": "eos",
            "eos_id": 0,
        },
    },
    "preprocess_cfg": {
        "size": 32,
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
OWN_SETTINGS = {
    "kind": "beam-magic",
    "top_k": 6,
    "beam_size": 3,
    "finished": 4,
    "memory_weight": 0.1,
    "image_weight": 2.0,
    "fit_weight": 8.0,
    "neighbours": 12,
    "temperature": 0.5,
    "max_new_tokens": 9,
    "include": ["the"],
    "exclude": ["girl"],
    "min_words": 4,
    "max_words": 8,
    "prompted": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("flickr8k", "fixtures"), help="write one of the two")
    only = parser.parse_args().only
    if only != "flickr8k":
        make_fixtures()
    if only != "fixtures":
        make_flickr8k(Path(os.environ["MAGICAP_DATA"]))


def make_flickr8k(data: Path) -> None:
    """Write what the captioners that ship say of the first dev pictures."""
    names = [row.image for row in read_captions(data / "flickr8k" / "captions.jsonl", ("dev",))][:PICTURES]
    with ImageFiles(data / "flickr8k" / "images-dev.tar") as tar:
        pictures = [tar.read(name) for name in names]
    captioners = shipped_captioners()
    systems = {}
    for name, (of, values, count) in SHIPPED.items():
        captioner = captioners[of]
        settings = described(values, captioner) if values else own_decoding(captioner)
        said = captioner.caption(pictures[:count], decoding_of(settings, captioner), seed=SEED)
        captions = [caption.text for caption in said]
        systems[name] = {"captioner": of, "decoding": settings, "seed": SEED, "captions": captions}
        print(f"{name}: {captions[0]}", flush=True)
    fingerprints = {of: captioner.fingerprint for of, captioner in captioners.items()}
    _write(FLICKR8K, {"fingerprints": fingerprints, "pictures": names, "systems": systems})


def make_fixtures() -> None:
    """Write tiny captioners, an index and kept captions, and what they give."""
    # An index's files are named by a digest of its pictures' paths: always the same path, wherever this is.
    work = Path(tempfile.gettempdir(), "magicap-format1")
    shutil.rmtree(work, ignore_errors=True)
    album = work / ALBUM.name
    album.mkdir(parents=True)
    for number, picture in enumerate(tiny.pictures(8)):
        Image.fromarray(picture).save(album / f"{number}.png")
        os.utime(album / f"{number}.png", ns=(MTIME_NS, MTIME_NS))
    _zero_shot(work / "tokenizer").save_pretrained(work / "zero-shot", dtype="float16")
    _supervised().save_pretrained(work / "supervised", dtype="float16")
    shutil.rmtree(work / "tokenizer")
    for folder in (work / "zero-shot", work / "supervised"):
        if json.loads((folder / "magicap.json").read_text())["format"] != 1:
            raise SystemExit(f"the package writes another format now; {FORMAT1} stays as it is")
    expected = _expected(work)
    _refuse_idle_settings(load_captioner(work / "zero-shot", device="cpu"), sorted(album.glob("*.png")))
    shutil.rmtree(FORMAT1, ignore_errors=True)
    shutil.copytree(work, FORMAT1)
    shutil.rmtree(work)
    _write(EXPECTED, expected)


def _expected(work: Path) -> dict[str, Any]:
    """What the captioners give; on the way their index and kept captions are written."""
    captioners = {name: load_captioner(work / name, device="cpu") for name in ("zero-shot", "supervised")}
    paths = sorted((work / ALBUM.name).glob("*.png"))
    names = [path.name for path in paths]
    systems = {}
    for name, (of, values) in TINY.items():
        captioner = captioners[of]
        settings = described(values, captioner) if values else own_decoding(captioner)
        decoding = decoding_of(settings, captioner)
        said = captioner.caption(paths, decoding, seed=SEED)
        rows = [
            {"caption": each.text, "score": round(each.score, 4), "finished": each.finished} for each in said
        ]
        systems[name] = {"captioner": of, "decoding": settings, "seed": SEED, "captions": rows}
        if name in KEPT:
            with ImageFiles(work / ALBUM.name) as pictures:
                caption_images(name, captioner, decoding, names, pictures, seed=SEED, keep=work / "kept")
    return {
        "fingerprints": {name: captioner.fingerprint for name, captioner in captioners.items()},
        "systems": systems,
        "kept": list(KEPT),
        "searches": _searches(captioners["zero-shot"].scorer, work, paths),
    }


def _searches(scorer: ImageTextScorer, work: Path, paths: list[Path]) -> list[dict[str, Any]]:
    """What is nearest in an index of the pictures, and in one of sentences; both are written."""
    pictures, sentences = RetrievalIndex(scorer, preset="tiny"), RetrievalIndex(scorer)
    pictures.update_images(paths)
    pictures.save(work / ALBUM.name / ".magicap-index")
    sentences.update_texts(REMEMBERED)
    sentences.save(work / "sentences.magicap-index")
    shown = [f"{ALBUM.name}/{path.name}" for path in paths[:2]]
    results = [
        *((ALBUM.name, *pair) for pair in zip(QUERIES, pictures.search_texts(QUERIES, 4), strict=True)),
        *(
            ("sentences.magicap-index", *pair)
            for pair in zip(shown, sentences.search_images(paths[:2], 4), strict=True)
        ),
    ]
    return [
        {"index": index, "query": query, "matches": [_match(match) for match in matches]}
        for index, query, matches in results
    ]


def _match(match: Match) -> list[Any]:
    item = match.item
    name = Path(item.path).name if item.path else item.text
    return [name, round(match.cosine, 4), match.position]


def _zero_shot(tokenizer_folder: Path) -> Captioner:
    """A random scorer, a language model that knows a few sentences, a soft prompt and a memory."""
    tokenizer = _tokenizer()
    language_model: LanguageModel = tiny.language_model(tokenizer, SEED, width=24)
    _learn(language_model)
    prompt = SoftPrompt(WIDTH, language_model.model.config.n_embd)
    _spread(prompt)
    language_model.soft_prompt = prompt.requires_grad_(False)

    bpe = tokenizer.backend_tokenizer
    bpe.normalizer = normalizers.Lowercase()
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{START_TOKEN} $A {END_TOKEN}",
        special_tokens=[(token, bpe.token_to_id(token)) for token in (START_TOKEN, END_TOKEN)],
    )
    _wrapped(bpe).save_pretrained(tokenizer_folder)
    shape = {**SCORER["model_cfg"]["text_cfg"], "vocab_size": bpe.get_vocab_size()}
    config = {**SCORER, "model_cfg": {**SCORER["model_cfg"], "text_cfg": shape}}
    scorer = ImageTextScorer.from_config(config, tokenizer_folder)
    _spread(scorer.model)
    with torch.no_grad():  # these two are the same for all pictures
        scorer.model.visual.class_embedding.zero_()
        scorer.model.visual.positional_embedding.zero_()
    captioner = Captioner(language_model, scorer, memory=CaptionMemory.from_texts(scorer, REMEMBERED))
    captioner.decoding = decoding_of(OWN_SETTINGS, captioner)
    return captioner


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of hardly more than the sentences' own words."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = [END_TOKEN, START_TOKEN, PAD_TOKEN]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=specials, show_progress=False)
    bpe.train_from_iterator([text for each in SENTENCES for text in (each, each.lower())], trainer)
    return _wrapped(bpe)


def _wrapped(bpe: Tokenizer) -> PreTrainedTokenizerFast:
    specials = {"eos_token": END_TOKEN, "bos_token": START_TOKEN, "pad_token": PAD_TOKEN}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(bpe.to_str()), **specials)


def _learn(language_model: LanguageModel) -> None:
    """Some steps over the sentences: a random model writes no captions, and ends none."""
    model = language_model.model.train().requires_grad_(True)
    rows = [
        torch.tensor([language_model.start_id, *ids, language_model.end_id])
        for ids in language_model.caption_ids(SENTENCES)
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(40):
        optimiser.zero_grad()
        model(ids.clamp_min(0), labels=ids).loss.backward()
        optimiser.step()
    model.eval().requires_grad_(False)


def _supervised() -> SupervisedCaptioner:
    """A random supervised captioner over a grid of 4 x 4."""
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    grid = GridConfig("vit_tiny_patch16_224", options, size=32)
    decoder = DecoderConfig("soft", width=16, embedding=8, attention=8, max_words=8)
    words = sorted({word.strip(".").lower() for text in SENTENCES for word in text.split()})
    network = CaptionNetwork(grid, decoder, Vocabulary([*SPECIALS, *words]))
    _spread(network)
    captioner = SupervisedCaptioner(network)
    settings = {"kind": "beam", "beam_size": 2, "length_penalty": 0.7, "max_new_tokens": 7}
    captioner.decoding = decoding_of(settings, captioner)
    return captioner


@torch.no_grad()
def _spread(model: nn.Module) -> None:
    """Larger random weights: initial ones are so small that all pictures look alike."""
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            parameter.copy_(torch.randn_like(parameter) * 1.5 / parameter.shape[-1] ** 0.5)


def _refuse_idle_settings(captioner: AnyCaptioner, paths: list[Path]) -> None:
    """Every setting of beam magic search must change a caption here; else nothing shows that it is read."""
    idle = set(OWN_SETTINGS) - {"kind"}
    for values in (
        OWN_SETTINGS,
        *(values for _, values in TINY.values() if values.get("kind") == "beam-magic"),
    ):
        captions = captioner.caption(paths, decoding_of(values, captioner))
        for name in idle & set(values):
            others = {key: value for key, value in values.items() if key != name}
            if captioner.caption(paths, decoding_of(others, captioner)) != captions:
                idle.remove(name)
    if idle:
        raise SystemExit(f"no caption shows that {', '.join(sorted(idle))} is read; choose other values")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
