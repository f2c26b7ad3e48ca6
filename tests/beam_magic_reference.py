"""Beam magic search written straight from its definition: one picture, whole strings, whole forwards.

The slow reference, from the section "Beam magic search, exactly" of the design. It shares no algorithm with
``magicap``: it has its own neighbours, weights, soft prompts, document frequencies and CIDEr-D. Of the
captioner it takes the loaded transformers and open_clip models, their tokenizers and the preprocessing of
pictures; of the memory the captions with their vectors; of the metrics the PTB tokenizer.

Names are the design's: y_m evidence captions with weights w_m, q the probability of a next token, L the sum
of its logarithms, S the score of a beam, U the expected utility.

Shapes: N captions of a memory, M evidence captions, H hypotheses, D embedding width of the scorer, W hidden
width of the language model, V vocabulary.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from magicap import BeamMagicSearch, Captioner, CaptionMemory, ImageTextScorer, LanguageModel
from magicap.images.reader import open_image
from magicap.metrics.tokenizer import PTB

START, PAD = "<-start_of_text->", "<-pad->"
SOFT_PROMPT_NEIGHBOURS = 200
LONGEST_CONTEXT = 3  # tokens that the n-gram model of the evidence looks back at
SMALLEST_PROBABILITY = 1e-9
SMALLEST_STD = 1e-6  # of cosines that are all the same
ORDERS = (1, 2, 3, 4)  # of CIDEr-D's n-grams
CIDER_SIGMA = 6.0

Ngram = tuple[str, ...]


class Settings(NamedTuple):
    """The settings by the design's names, with what is filled in where there is no memory."""

    top_k: int
    beam_size: int
    num_finished: int
    ngram_weight: float
    image_weight: float
    rerank_weight: float
    rerank_top: int | None
    neighbours: int
    temperature: float
    max_new_tokens: int
    soft_prompt: bool
    prefix: str
    constraints: Constraints

    @classmethod
    def of(cls, search: BeamMagicSearch, *, has_memory: bool) -> Settings:
        """The one place that knows how the fields of a search are called."""
        image_weight = search.image_weight
        if image_weight is None:
            image_weight = 0.0 if has_memory else 2.0
        return cls(
            top_k=search.top_k,
            beam_size=search.beam_size,
            num_finished=search.num_finished,
            ngram_weight=search.ngram_weight if has_memory else 0.0,
            image_weight=image_weight,
            rerank_weight=search.rerank_weight,
            rerank_top=search.rerank_top,
            neighbours=search.neighbours,
            temperature=search.temperature,
            max_new_tokens=search.max_new_tokens,
            soft_prompt=search.soft_prompt,
            prefix=search.prefix,
            constraints=Constraints(
                frozenset(word for text in search.include for word in words_of(text)),
                frozenset(word for text in search.exclude for word in words_of(text)),
                search.min_words,
                math.inf if search.max_words is None else search.max_words,
            ),
        )


class Constraints(NamedTuple):
    """What a caption must have, must not have, and how many words it may have."""

    include: frozenset[str]
    exclude: frozenset[str]
    min_words: int
    max_words: float

    def allow(self, words: Sequence[str]) -> bool:
        """Whether a whole caption is as it must be."""
        return self.allow_prefix(words) and len(words) >= self.min_words and self.include <= set(words)

    def allow_prefix(self, words: Sequence[str]) -> bool:
        """Whether a caption that has these words can still become as it must be."""
        return len(words) <= self.max_words and self.exclude.isdisjoint(words)


class Hypothesis(NamedTuple):
    """A whole caption that competes."""

    text: str
    expected_utility: float
    """U, expected CIDEr-D, 0 to 10."""
    rerank: float
    """The weighed cosine of picture and caption."""
    source: str
    """``memory`` or ``beam``."""
    finished: bool
    """Whether it ended at the end token."""

    @property
    def score(self) -> float:
        """What is compared."""
        return self.expected_utility + self.rerank


class BeamHypothesis(NamedTuple):
    """A prefix, or a whole caption, that the beam wrote."""

    ids: tuple[int, ...]
    log_probability: float
    """L, the sum of log q."""
    score: float
    """S, with the picture's part."""
    finished: bool


class Neighbours(NamedTuple):
    """The captions of a memory that are nearest to a picture, the nearest first."""

    positions: np.ndarray
    """(M,) of the memory's captions."""
    cosines: np.ndarray
    """(M,)"""

    @property
    def std(self) -> float:
        """sigma, the population standard deviation of the cosines."""
        return max(float(self.cosines.std()), SMALLEST_STD)

    def weights(self, temperature: float) -> np.ndarray:
        """(M,) softmax of c_m / (tau * sigma)."""
        return softmax(self.cosines / (temperature * self.std))


class DocumentFrequencies(NamedTuple):
    """In how many documents n-grams of one to four words stand."""

    documents: int
    counts: Counter[Ngram]

    @classmethod
    def of(cls, captions: Iterable[Sequence[str]]) -> DocumentFrequencies:
        """Count captions, lists of words, each of which is a document."""
        documents, counts = 0, Counter[Ngram]()
        for words in captions:
            documents += 1
            counts.update({ngram for n in ORDERS for ngram in ngrams(words, n)})
        return cls(documents, counts)

    def idf(self, ngram: Ngram) -> float:
        """Logarithm of documents over those that have the n-gram, at least one."""
        return math.log(self.documents) - math.log(max(self.counts[ngram], 1))


class MemoryFacts(NamedTuple):
    """What is true of a memory whatever the picture."""

    words: list[tuple[str, ...]]
    """The words of its N captions."""
    vectors: Tensor
    """(N, D) unit vectors."""
    frequencies: DocumentFrequencies


@functools.lru_cache(maxsize=4)
def facts_of(memory: CaptionMemory) -> MemoryFacts:
    """Counted once a memory: the document frequencies of 190,000 captions take 10 s."""
    words = [words_of(text) for text in memory.texts]
    return MemoryFacts(words, memory.vectors, DocumentFrequencies.of(words))


@torch.no_grad()
def reference_hypotheses(
    captioner: Captioner, picture: object, search: BeamMagicSearch, memory: CaptionMemory | None
) -> list[Hypothesis]:
    """The hypotheses that compete for a picture, the best first; none where only too long ones do."""
    settings = Settings.of(search, has_memory=memory is not None)
    language_model, scorer = captioner.language_model, captioner.scorer
    image = image_vector(scorer, picture)
    added = soft_prompt(language_model, image, memory) if settings.soft_prompt else None

    if memory is not None:
        facts = facts_of(memory)
        allowed = [n for n, words in enumerate(facts.words) if settings.constraints.allow(words)]
        neighbours = nearest(facts.vectors, image, settings.neighbours, np.array(allowed))
        remembered = [memory.texts[position] for position in neighbours.positions]
        weights = neighbours.weights(settings.temperature)
        ngram_model = NgramModel(language_model, remembered, weights)
        written = beam(captioner, image, ngram_model, neighbours.std, added, settings)
        written_texts = allowed_texts(language_model, written, settings.constraints)
        frequencies = facts.frequencies
    else:
        std = std_of_first_candidates(captioner, image, added, settings)
        remembered, written = [], beam(captioner, image, None, std, added, settings)
        written_texts = allowed_texts(language_model, written, settings.constraints)
        if not written_texts:  # no first token is allowed: the longest allowed beginning is empty
            written_texts = {settings.prefix: BeamHypothesis((), 0.0, 0.0, finished=False)}
        weights = softmax(np.array([hypothesis.score for hypothesis in written_texts.values()]))
        frequencies = DocumentFrequencies.of(words_of(text) for text in written_texts)

    ids_of_prefix = start_of(language_model, settings)[1:]
    texts = remembered + [text for text in written_texts if text not in set(remembered)]  # (H,)
    utilities = expected_utilities([words_of(text) for text in texts], weights, frequencies)
    hypotheses = []
    for number, (text, utility) in enumerate(zip(texts, utilities.tolist(), strict=True)):
        source = "memory" if number < len(remembered) else "beam"
        finished = source == "memory" or written_texts[text].finished
        hypotheses.append(Hypothesis(text, utility, 0.0, source, finished))
    # Of ties the nearer of the memory comes first, then the higher S: as they stand in the list.
    by_utility = sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)
    short, long = [], []  # captions of too many tokens come last
    for hypothesis in by_utility:
        if not (hypothesis.text in written_texts or begins_with(settings.prefix, hypothesis.text)):
            continue  # it does not compete
        ids = language_model.tokenizer(hypothesis.text, add_special_tokens=False).input_ids
        is_short = len(ids) - len(ids_of_prefix) <= settings.max_new_tokens
        fits = hypothesis.text in written_texts or is_short
        if settings.prefix and not fits:
            continue
        (short if fits else long).append(hypothesis)
    if not settings.rerank_weight or not short:
        return [*short, *long] if short else []
    top = len(short) if settings.rerank_top is None else settings.rerank_top
    first, rest = short[:top], [*short[top:], *long]
    cosines = (text_vectors(scorer, [hypothesis.text for hypothesis in first]) @ image).tolist()
    reranked = [
        hypothesis._replace(rerank=settings.rerank_weight * cosine)
        for hypothesis, cosine in zip(first, cosines, strict=True)
    ]
    return [*sorted(reranked, key=lambda hypothesis: -hypothesis.score), *rest]


def begins_with(prefix: str, text: str) -> bool:
    """Whether a text begins with a prefix, whose last word is not the beginning of a longer one."""
    words, begun = " ".join(prefix.split()), " ".join(text.split())
    joined = begun[len(words) - 1 : len(words) + 1] if words else ""
    return begun.startswith(words) and not re.fullmatch(r"\w\w", joined)


def std_of_first_candidates(
    captioner: Captioner, image: Tensor, added: Tensor | None, settings: Settings
) -> float:
    """sigma where there is no memory: of the cosines of the first V_k."""
    language_model = captioner.language_model
    start = start_of(language_model, settings)
    (first,) = top_candidates(language_model, [start], added, settings.top_k)
    texts = [text_of(language_model, (*start, token)) for token in first]
    cosines = text_vectors(captioner.scorer, texts) @ image
    return max(float(cosines.double().std(correction=0)), SMALLEST_STD)


def allowed_texts(
    language_model: LanguageModel, written: Sequence[BeamHypothesis], constraints: Constraints
) -> dict[str, BeamHypothesis]:
    """The different texts that the beam wrote and the constraints allow, the highest S first."""
    texts: dict[str, BeamHypothesis] = {}
    for hypothesis in written:
        text = text_of(language_model, hypothesis.ids).strip()
        if constraints.allow(words_of(text)):
            texts.setdefault(text, hypothesis)
    return texts


# The memory near a picture


def nearest(vectors: Tensor, image: Tensor, count: int, positions: np.ndarray) -> Neighbours:
    """The captions nearest to a picture (D,) among those of a memory (N, D) at some positions."""
    cosines = (vectors @ image).double().numpy()[positions]
    order = np.argsort(-cosines, kind="stable")[:count]
    return Neighbours(positions[order], cosines[order])


def soft_prompt(language_model: LanguageModel, image: Tensor, memory: CaptionMemory | None) -> Tensor:
    """(W,) what is added to the embedding of the start token: A(sqrt(D) * image) + B(sqrt(D) * memory input).

    The memory input is the mean of the nearest captions' vectors by a softmax of c_m / sigma_200, whatever
    the constraints; without a memory there is no B.
    """
    prompt = language_model.soft_prompt
    project_image, project_memory = prompt.image_projection, prompt.memory_projection
    scale = math.sqrt(len(image))
    added = project_image(scale * image)
    if memory is not None:
        vectors = facts_of(memory).vectors
        neighbours = nearest(vectors, image, SOFT_PROMPT_NEIGHBOURS, np.arange(len(vectors)))
        weights = torch.from_numpy(neighbours.weights(temperature=1.0)).to(image)
        added = added + project_memory(scale * (weights @ vectors[neighbours.positions]))
    return added


class NgramModel:
    """r(v): what the evidence captions go on with, an n-gram model of up to three tokens of context."""

    def __init__(self, language_model: LanguageModel, evidence: Sequence[str], weights: np.ndarray) -> None:
        """
        Args:
            evidence: M captions y_m; as tokens each begins with the start token and ends with the end token.
            weights: (M,) w_m.
        """
        start, end = start_id(language_model), end_id(language_model)
        self.counts: dict[tuple[int, ...], dict[int, float]] = defaultdict(lambda: defaultdict(float))
        """n_l(v) behind every context of l = 0 to 3 tokens that stands in some y_m."""
        for text, weight in zip(evidence, weights.tolist(), strict=True):
            ids = (start, *language_model.tokenizer(text, add_special_tokens=False).input_ids, end)
            for place in range(1, len(ids)):
                for length in range(min(LONGEST_CONTEXT, place) + 1):
                    context = ids[place - length : place]
                    self.counts[context][ids[place]] += len(evidence) * weight
        self.totals = {context: sum(counts.values()) for context, counts in self.counts.items()}
        """n_l of every context."""

    def probability(self, prefix: tuple[int, ...], token: int) -> float:
        """r(v) of one token v behind a prefix x."""
        r = self.counts[()].get(token, 0.0) / self.totals[()]
        for length in range(1, min(LONGEST_CONTEXT, len(prefix)) + 1):
            context = prefix[-length:]
            if context not in self.counts:
                break
            r = (self.counts[context].get(token, 0.0) + r / 2) / (self.totals[context] + 1 / 2)
        return r


# The beam


def beam(
    captioner: Captioner,
    image: Tensor,
    ngram_model: NgramModel | None,
    std: float,
    added: Tensor | None,
    settings: Settings,
) -> list[BeamHypothesis]:
    """What the beam wrote, the highest S first: the best that ended, or the open ones where none did.

    Args:
        image: (D,) unit vector.
        ngram_model: r(v); None: there is no memory.
        std: sigma.
        added: (W,) the soft prompt; None: there is none.
    """
    N = settings.beam_size
    start = start_of(captioner.language_model, settings)
    partial = [BeamHypothesis(start, 0.0, 0.0, finished=False)]
    finished: list[BeamHypothesis] = []
    for _ in range(settings.max_new_tokens):
        prefixes = [hypothesis.ids for hypothesis in partial]
        candidates = top_candidates(captioner.language_model, prefixes, added, settings.top_k)
        best: list[BeamHypothesis] = []
        for hypothesis, p in zip(partial, candidates, strict=True):
            continuations = continue_by(captioner, hypothesis, p, image, ngram_model, std, settings)
            best += by_score(continuations)[: N + 1]
        best = by_score(best)[: 2 * N]
        finished = by_score([*finished, *(one for one in best if one.finished)])[: settings.num_finished]
        worst = finished[-1].score if len(finished) == settings.num_finished else -math.inf
        going_on = [one for one in best if not one.finished and one.score > worst][:N]
        if not going_on:
            break
        partial = going_on
    return finished or [hypothesis for hypothesis in partial if len(hypothesis.ids) > len(start)]


def continue_by(
    captioner: Captioner,
    hypothesis: BeamHypothesis,
    p: dict[int, float],
    image: Tensor,
    ngram_model: NgramModel | None,
    std: float,
    settings: Settings,
) -> list[BeamHypothesis]:
    """A hypothesis with each of its candidates, those left out that the constraints forbid.

    Args:
        p: probabilities of its candidates, V_k.
        image, ngram_model, std, settings: as of :func:`beam`.
    """
    mu, gamma, constraints = settings.ngram_weight, settings.image_weight, settings.constraints
    end = end_id(captioner.language_model)
    texts = [text_of(captioner.language_model, (*hypothesis.ids, token)) for token in p]
    cosines = (text_vectors(captioner.scorer, texts) @ image).tolist() if gamma else [0.0] * len(texts)
    continuations = []
    for token, text, cosine in zip(p, texts, cosines, strict=True):
        words, ends = words_of(text), token == end
        if not (constraints.allow(words) if ends else constraints.allow_prefix(words)):
            continue
        r = ngram_model.probability(hypothesis.ids, token) if ngram_model else 0.0
        q = (1 - mu) * p[token] + mu * r
        L = hypothesis.log_probability + math.log(max(q, SMALLEST_PROBABILITY))
        S = L + gamma * cosine / std
        continuations.append(BeamHypothesis((*hypothesis.ids, token), L, S, finished=ends))
    return continuations


def by_score(hypotheses: Sequence[BeamHypothesis]) -> list[BeamHypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)


def top_candidates(
    language_model: LanguageModel, prefixes: Sequence[tuple[int, ...]], added: Tensor | None, top_k: int
) -> list[dict[int, float]]:
    """V_k of prefixes of one length: the most probable next tokens, falling, with their raw probability p."""
    embeddings = language_model.model.get_input_embeddings()(torch.tensor(prefixes))  # (prefixes, T, W)
    if added is not None:
        embeddings = torch.cat([embeddings[:, :1] + added, embeddings[:, 1:]], dim=1)
    logits = language_model.model(inputs_embeds=embeddings).logits[:, -1]  # (prefixes, V)
    p, tokens = torch.softmax(logits.float(), dim=1).topk(min(top_k, logits.shape[1]), dim=1)
    return [dict(zip(*row, strict=True)) for row in zip(tokens.tolist(), p.tolist(), strict=True)]


# CIDEr-D


def expected_utilities(
    hypotheses: Sequence[Sequence[str]], weights: np.ndarray, frequencies: DocumentFrequencies
) -> np.ndarray:
    """(H,) U of hypotheses, lists of words, the first M of which are the evidence with weights (M,)."""
    utility = pairwise_cider_d(hypotheses, frequencies)
    expected = np.zeros(len(hypotheses))
    for a in range(len(hypotheses)):
        others = [m for m in range(len(weights)) if m != a]
        expected[a] = sum(weights[m] * utility[a, m] for m in others)
        if a < len(weights) and others:
            expected[a] /= 1 - weights[a]
    return expected


def pairwise_cider_d(captions: Sequence[Sequence[str]], frequencies: DocumentFrequencies) -> np.ndarray:
    """(H, H) CIDEr-D, 0 to 10, of every caption (row) against every caption as its reference (column).

    As coco-caption computes it: of each order the sum of min(weight in a, weight in b) * weight in b over the
    lengths of both vectors, the mean of the four orders, and a penalty on how many bigrams more one has.
    """
    H = len(captions)
    total = np.zeros((H, H))
    for n in ORDERS:
        counts = [Counter(ngrams(words, n)) for words in captions]
        lengths = np.array(
            [math.sqrt(sum((count * frequencies.idf(g)) ** 2 for g, count in row.items())) for row in counts]
        )
        holders: dict[Ngram, list[int]] = defaultdict(list)
        for number, row in enumerate(counts):
            for ngram in row:
                holders[ngram].append(number)
        dot = np.zeros((H, H))
        for ngram, numbers in holders.items():
            weights = np.array([counts[number][ngram] for number in numbers]) * frequencies.idf(ngram)
            clipped = np.minimum(weights[:, None], weights[None, :])  # a's weight, at most b's
            dot[np.ix_(numbers, numbers)] += clipped * weights[None, :]
        product = lengths[:, None] * lengths[None, :]
        total += np.divide(dot, product, out=np.zeros((H, H)), where=product > 0)
    bigrams = np.array([max(len(words) - 1, 0) for words in captions])
    difference = bigrams[:, None] - bigrams[None, :]
    return 10 * total / len(ORDERS) * np.exp(-(difference**2) / (2 * CIDER_SIGMA**2))


def ngrams(words: Sequence[str], n: int) -> list[Ngram]:
    return [tuple(words[place : place + n]) for place in range(len(words) - n + 1)]


@functools.lru_cache(maxsize=2**16)
def words_of(text: str) -> tuple[str, ...]:
    """The words that captions are scored by: lower case, without punctuation."""
    return tuple(" ".join(PTB(text)).split())


# The models


def start_id(language_model: LanguageModel) -> int:
    return int(language_model.tokenizer.convert_tokens_to_ids(START))


def start_of(language_model: LanguageModel, settings: Settings) -> tuple[int, ...]:
    """The tokens that every caption begins with: the start token and the prefix."""
    ids = language_model.tokenizer(settings.prefix, add_special_tokens=False).input_ids
    return start_id(language_model), *ids


def end_id(language_model: LanguageModel) -> int:
    return int(language_model.tokenizer.eos_token_id)


def text_of(language_model: LanguageModel, ids: Sequence[int]) -> str:
    """The text of tokens without the special ones."""
    tokenizer = language_model.tokenizer
    special = {*tokenizer.convert_tokens_to_ids([START, PAD]), *tokenizer.all_special_ids}
    return str(tokenizer.decode([i for i in ids if i not in special], clean_up_tokenization_spaces=False))


def image_vector(scorer: ImageTextScorer, picture: object) -> Tensor:
    """(D,) unit vector of a picture."""
    vectors = scorer.model.encode_image(scorer.preprocess(open_image(picture))[None])
    return F.normalize(vectors, dim=1)[0]


def text_vectors(scorer: ImageTextScorer, texts: Sequence[str], batch_size: int = 256) -> Tensor:
    """(texts, D) unit vectors of whole texts."""
    batches = [texts[first : first + batch_size] for first in range(0, len(texts), batch_size)]
    vectors = [scorer.model.encode_text(scorer.tokenizer(batch)) for batch in batches]
    return F.normalize(torch.cat(vectors), dim=1)


def softmax(values: np.ndarray) -> np.ndarray:
    weights = np.exp(values - values.max())
    return np.asarray(weights / weights.sum())
