"""Tune a captioner's language model on pictures without captions and text without pictures, adversarially.

As CgT-GAN (Yu et al. 2023): the language model writes captions of the pictures behind its soft prompt; the
scorer says how well they fit, a discriminator, which learns beside it, how like people's sentences they are;
policy gradient makes the better captions of each picture likelier. Divergence from the model at the start and
cross-entropy of the text hold it back from what only pleases the two. --image_weight, --aggregate_weight,
--adversarial_weight, --kl_weight and --text_weight weigh the terms; 0 leaves one out.

    python recipes/train_adversarial.py --out runs/adversarial \\
        --images $MAGICAP_DATA/flickr8k/images-train.tar \\
        --text $MAGICAP_DATA/text/flickr30k.jsonl $MAGICAP_DATA/text/coco_restval.txt \\
        --validation $MAGICAP_DATA/flickr8k/captions.jsonl \\
        --validation_images $MAGICAP_DATA/flickr8k/images-dev.tar
    magicap caption photo.jpg --preset runs/adversarial

Greedy captions of dev pictures are watched: their CIDEr-D, their fit by the scorer that rewards and by
another one that does not, and how likely they are as text. --choose_by one of these chooses the checkpoint:
cider_d by the dev captions, watched_fit without them. A second run of the same command resumes.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from cli import run
from torch import Tensor

from magicap import Captioner, CaptionMemory, ImageTextScorer, LanguageModel
from magicap.captioners.presets import DEFAULT, UNPAIRED_FOLDER
from magicap.captioners.sources import SCORER
from magicap.checks import require_int, require_number
from magicap.data import CaptionedImage, ImageFiles, read_sentences
from magicap.decoding.conditioning import project_onto_memory
from magicap.decoding.searches import as_beam_magic
from magicap.errors import BadData, BadImage, BadSettings
from magicap.training import processes
from magicap.training.checks import open_run_folder, require_rows
from magicap.training.discriminator import Discriminator
from magicap.training.image_vectors import Unreadable, image_vectors
from magicap.training.loop import TrainingState, fit
from magicap.training.objectives.adversarial import AdversarialTuning, TermWeights
from magicap.training.options import TrainingOptions
from magicap.training.pairs import read_captioned_images
from magicap.training.parameter_groups import split_by_decay
from magicap.training.phases import digest, load_or_compute
from magicap.training.progress import progress
from magicap.training.rewards import ScorerReward
from magicap.training.soft_prompts import SoftPromptTuning, conditioned_sentences
from magicap.training.unpaired import Unpaired, WatchedPictures

MAY_CHANGE = ("epochs", "learning_rate", "prompt_rate", "discriminator_rate", "vectors")
BEST = Path("training", "best")
START = Path("training", "start.json")
MEASURED = 1000  # pictures and sentences by which the spread of cosines is measured


@dataclass(frozen=True, kw_only=True)
class Config(TrainingOptions, SoftPromptTuning, TermWeights):
    images: list[str]
    """Tar files or folders with pictures, all of which are read; nobody's captions of them are."""

    text: list[str]
    """Data sets, of which the train split is read without Flickr8k's dev and test captions, or text files
    with a caption a line. Sentences of more than --max_tokens are left out."""

    validation: str
    """Data set whose dev or val split is captioned to watch the training."""

    validation_images: list[str]
    """Tar files or folders with the pictures of that split."""

    out: str
    """Folder of the new captioner; training goes to <out>/training."""

    base: str = DEFAULT
    """Preset or folder of the captioner to start from, with a memory and a soft prompt."""

    watching_scorer: str | None = None
    """Folder of the second scorer, which rewards nothing; default: that of the preset unpaired."""

    choose_by: Literal["cider_d", "watched_fit"] = "cider_d"
    """Figure of the validation that chooses the checkpoint: cider_d by captions, watched_fit without."""

    vectors: str | None = None
    """Folder for the vectors of pictures and sentences, which several runs may share; default:
    <out>/training."""

    image_limit: int | None = None
    """The most pictures, sampled by the seed; default: all."""

    text_limit: int | None = None
    """The most sentences, sampled by the seed; default: all."""

    validation_limit: int = 300
    """The most pictures of the validation, its first."""

    batch_size: int = 8
    """Number of pictures in a batch of one process, each with --samples captions and as many sentences."""

    samples: int = 5
    """Number of captions sampled of each picture, at least 2: each is compared with the others."""

    max_tokens: int = 24
    """Longest sentence, and longest caption that is written, in tokens with their start and end."""

    learning_rate: float = 2e-4
    """Peak learning rate of the language model."""

    prompt_rate: float = 5e-4
    """Peak learning rate of the soft prompt."""

    discriminator_rate: float = 2e-4
    """Peak learning rate of the discriminator."""

    discriminator_layers: int = 2
    """How many of the language model's blocks the discriminator begins with."""

    epochs: int = 1
    """Number of passes over the pictures."""

    validations_per_epoch: int = 6
    """How many times in a pass over the pictures the dev pictures are captioned."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_int("--batch_size", self.batch_size)
        for name in ("discriminator_layers", "epochs", "validations_per_epoch"):
            require_int(f"--{name}", getattr(self, name))
        for name in ("learning_rate", "prompt_rate", "discriminator_rate"):
            require_number(f"--{name}", getattr(self, name), lambda rate: rate > 0, "above 0")
        for name in ("samples", "max_tokens", "validation_limit", "image_limit", "text_limit"):
            if getattr(self, name) is not None:
                require_int(f"--{name}", getattr(self, name), least=2)
        weights = [name for name in vars(self) if name.endswith("_weight")]
        for name in weights:
            require_number(f"--{name}", getattr(self, name), lambda weight: weight >= 0, "at least 0")
        teaching = [name for name in weights if name != "kl_weight"]  # that one only holds back
        if not any(getattr(self, name) for name in teaching):
            raise BadSettings(f"nothing to learn from: give one of --{', --'.join(teaching)} above 0")

    @property
    def max_new_tokens(self) -> int:
        """The longest caption, its end token included."""
        return self.max_tokens - 1


def main(config: Config) -> None:
    config.begin()
    out = Path(config.out)
    captioner = Captioner.from_pretrained(config.base, device="cpu" if config.cpu else None)
    memory = require_conditioned(captioner, config)
    dev = read_captioned_images(config.validation, ("dev", "val"))[: config.validation_limit]
    open_run_folder(out / "training", asdict(config), MAY_CHANGE)
    unpaired = read_unpaired(config, captioner, memory)
    watched = read_watched(config, captioner, memory, dev)
    state = train(config, captioner, memory, unpaired, watched)
    if processes.is_first():
        save(config, captioner, memory, unpaired, state)


def require_conditioned(captioner: Captioner, config: Config) -> CaptionMemory:
    """The memory of a captioner whose language model has a soft prompt.

    Raises:
        BadSettings: it has none of the two, or captions do not fit the language model.
    """
    captioner.language_model.require_room(config.max_new_tokens)
    if captioner.memory is None or captioner.language_model.soft_prompt is None:
        missing = "memory" if captioner.memory is None else "soft prompt"
        raise BadSettings(
            f"--base {config.base}: expected a captioner with a memory and a soft prompt, "
            f"found no {missing}; recipes/tune_prompted.py makes one"
        )
    return captioner.memory


def train(
    config: Config,
    captioner: Captioner,
    memory: CaptionMemory,
    unpaired: Unpaired,
    watched: WatchedPictures,
) -> TrainingState:
    """Tune language model and soft prompt; the best of both goes to <out>/training/best."""
    out, start = Path(config.out), captioner.language_model.to_train()
    language_model = start.to_train()
    discriminator = None
    if config.adversarial_weight:
        discriminator = Discriminator(start, config.discriminator_layers).to(language_model.device)
    objective = AdversarialTuning(
        language_model,
        start,
        memory,
        reward_of(config, captioner.scorer, unpaired),
        discriminator,
        config,
        samples=config.samples,
        max_new_tokens=config.max_new_tokens,
    )
    groups = config.groups(objective.text)
    if discriminator is not None:
        groups += split_by_decay(discriminator.parameters(), config.discriminator_rate, config.weight_decay)

    def validate(model: LanguageModel = language_model) -> dict[str, float]:
        figures = watched.evaluate(model, start, config.max_new_tokens)
        return {"score": figures[config.choose_by], **figures}

    if processes.is_first() and not (out / START).exists():
        (out / START).write_text(json.dumps(validate(start), allow_nan=False), encoding="utf-8")
    step_rows = config.step_rows(config.batch_size)
    return fit(
        objective,
        groups,
        epoch=lambda epoch: unpaired.epoch(step_rows, seed=config.seed + epoch),
        validate=lambda _: validate(),
        save_best=lambda _: language_model.save_pretrained(out / BEST),
        folder=out / "training",
        config=config.loop(
            config.epochs,
            validations_per_epoch=config.validations_per_epoch,
            description="adversarial training",
        ),
    )


def reward_of(config: Config, scorer: ImageTextScorer, unpaired: Unpaired) -> ScorerReward:
    """The scorer's part of the reward, in deviations of pictures' cosines with sentences of others."""
    vectors = unpaired.sentences.vectors
    assert vectors is not None
    texts = vectors[:: max(1, len(vectors) // MEASURED)].float()
    image_std, memory_std = (
        float((conditions[:: max(1, len(conditions) // MEASURED)] @ texts.T).std())
        for conditions in (unpaired.images, F.normalize(unpaired.projected, dim=1))
    )
    return ScorerReward(scorer, config.image_weight, config.aggregate_weight, image_std, memory_std)


def read_unpaired(config: Config, captioner: Captioner, memory: CaptionMemory) -> Unpaired:
    """Pictures and sentences, with their vectors."""
    with ImageFiles(config.images) as images:
        names = limited(list(images), config.image_limit, config.seed)
        vectors = vectors_of(config, captioner.scorer, images, names, "pictures", leave_out)
    if len(vectors) < 2:
        raise BadData(f"{', '.join(config.images)}: expected at least 2 pictures that can be read")
    texts = limited(read_texts(config, captioner.language_model), config.text_limit, config.seed)
    with progress(len(texts), "encoding sentences", unit="sentence") as bar:
        sentences = conditioned_sentences(
            captioner.language_model,
            captioner.scorer,
            memory,
            texts,
            config.max_tokens,
            bar.update,
            kept(config, "sentences", captioner.scorer.fingerprint, memory.texts, texts),
        )
    projected = projected_onto(config, memory, vectors, "pictures")
    return Unpaired(vectors, projected, sentences, config.samples)


def read_texts(config: Config, language_model: LanguageModel) -> list[str]:
    """The different sentences of --text that are not too long."""
    texts: dict[str, None] = {}
    for path in config.text:
        sentences = read_sentences(path)
        require_rows(sentences, path, ("train",))
        texts.update(dict.fromkeys(sentences))
    rows = zip(texts, language_model.encode_captions(list(texts)), strict=True)
    short = [text for text, ids in rows if len(ids) <= config.max_tokens]
    if not short:
        raise BadData(
            f"{', '.join(config.text)}: expected sentences of at most {config.max_tokens} tokens, "
            "found none; give --max_tokens"
        )
    return short


def read_watched(
    config: Config, captioner: Captioner, memory: CaptionMemory, dev: Sequence[CaptionedImage]
) -> WatchedPictures:
    """The dev pictures as both scorers see them, and their captions."""
    folder = config.watching_scorer or UNPAIRED_FOLDER / SCORER
    second = ImageTextScorer.from_pretrained(folder, device=captioner.scorer.device)
    names = [row.image for row in dev]
    with ImageFiles(config.validation_images) as images:
        vectors, second_vectors = (
            vectors_of(config, scorer, images, names, "dev") for scorer in (captioner.scorer, second)
        )
    projected = projected_onto(config, memory, vectors, "dev")
    references = [row.captions for row in dev]
    return WatchedPictures(captioner.scorer, second, vectors, second_vectors, projected, references)


def vectors_of(
    config: Config,
    scorer: ImageTextScorer,
    images: ImageFiles,
    names: Sequence[str],
    what: str,
    on_unreadable: Unreadable | None = None,
) -> Tensor:
    """(N, D) unit vectors of pictures, which are kept."""
    file = kept(config, what, scorer.fingerprint, names)
    return image_vectors(scorer, images, names, file, on_unreadable)


def projected_onto(config: Config, memory: CaptionMemory, vectors: Tensor, what: str) -> Tensor:
    """(N, D) vectors of pictures projected onto the memory, which are kept."""

    def project() -> Tensor:
        parts = []
        with progress(len(vectors), "projecting pictures", unit="picture") as bar:
            for part in vectors.split(64):
                parts.append(project_onto_memory(memory, part).cpu())
                bar.update(len(part))
        return torch.cat(parts)

    return load_or_compute(kept(config, f"{what}-projected", memory.texts, vectors.tolist()), project)


def kept(config: Config, what: str, *sources: object) -> Path:
    """The file of a long computation's result, by all that it depends on."""
    return Path(config.vectors or Path(config.out, "training"), f"{what}-{digest(*sources)}.pt")


def limited(items: list[str], limit: int | None, seed: int) -> list[str]:
    """So many of some names or texts, in a random order; all in theirs without a limit."""
    return items if limit is None else random.Random(seed).sample(items, min(limit, len(items)))


def leave_out(name: str, error: BadImage) -> None:
    """Say on stderr that a picture is left out."""
    print(f"{name} is left out: {error}", file=sys.stderr, flush=True)


def save(
    config: Config, captioner: Captioner, memory: CaptionMemory, unpaired: Unpaired, state: TrainingState
) -> None:
    """The captioner with the best language model and soft prompt, and its model card."""
    out = Path(config.out)
    language_model = LanguageModel.from_pretrained(out / BEST, device=captioner.device)
    decoding = replace(as_beam_magic(captioner.decoding), soft_prompt=True)
    Captioner(language_model, captioner.scorer, decoding, memory).save_pretrained(out, dtype="float16")
    (out / "README.md").write_text(model_card(config, unpaired, state), encoding="utf-8")
    print(json.dumps({"pictures": len(unpaired.images), **state.state_dict()}, allow_nan=False))


def model_card(config: Config, unpaired: Unpaired, state: TrainingState) -> str:
    start = json.loads(Path(config.out, START).read_text(encoding="utf-8"))[config.choose_by]
    weights = ", ".join(f"{option.name} {getattr(config, option.name)}" for option in fields(TermWeights))
    return f"""# A captioner tuned adversarially

Made by `recipes/train_adversarial.py` from `{config.base}`: {state.step} steps of
{config.step_rows(config.batch_size)} pictures, seed {config.seed}; {weights}.
Pictures without captions ({len(unpaired.images)}): {", ".join(config.images)}.
Text without pictures ({len(unpaired.sentences)} sentences): {", ".join(config.text)}.
The checkpoint was chosen on pictures of {config.validation} by {config.choose_by} of their greedy captions:
{state.best:.2f}; {start:.2f} before.

Origin and licence of the base hold on; those of pictures and text are to be added by whoever gives this on.
"""


if __name__ == "__main__":
    run(main, Config)
