"""Stories written straight from their definition: whole strings, whole forwards, nothing kept.

It shares no code with ``magicap``: what competes at a token is asked of the slow reference of magic search.
"""

from __future__ import annotations

import re

from reference import START, image_of, reference_candidates

from magicap import Captioner, MagicSearch


def reference_story(
    captioner: Captioner, pictures: list, search: MagicSearch, title: str, title_end: str, sentences: int
) -> tuple[list[str], list[list[int]]]:
    """The sentences of a story, and the tokens that were chosen for each.

    Sentences are searched on from the title and all of the story; where the language model would most
    probably end the text there, and where it writes nothing new, a sentence begins anew.
    """
    model = captioner.language_model
    start, end = model.tokenizer.convert_tokens_to_ids(START), model.tokenizer.eos_token_id
    story, chosen = [], []
    goes_on = bool(title) and not title_end and not title.endswith((".", "!", "?"))
    for number in range(sentences):
        image = image_of(captioner, pictures[number * len(pictures) // sentences])
        if goes_on and not story:
            openings = [(encoded(captioner, title), 0)]
        else:
            openings = [latest(captioner, "" if goes_on else title + title_end, story, search.max_new_tokens)]
        for read, before in [*openings, ([], 0)]:
            prefix, unread = [start, *read], 1 + before
            by_probability = reference_candidates(captioner, image, prefix, MagicSearch(1, 0.0, 0.0))
            if read and by_probability[0][0] == end:
                continue
            firsts = reference_candidates(captioner, image, prefix, search, unread=unread)
            known = [[], *map(words, [title, *story])]
            drafts = (
                draft(captioner, image, [*prefix, token], search, unread)
                for token, *_ in firsts
                if token != end
            )
            new = next((ids for ids in drafts if words(text_of(captioner, ids[unread:])) not in known), None)
            if new:
                story.append(text_of(captioner, new[unread:]).strip())
                chosen.append(new[len(prefix) :])
                break
        else:
            break
    return story, chosen


def draft(captioner: Captioner, image, ids: list[int], search: MagicSearch, unread: int) -> list[int]:
    """Tokens of a sentence from its first one until it ends."""
    for _ in range(search.max_new_tokens - 1):
        if re.search(r"[.!?][\"'”’)]*$", text_of(captioner, ids)):
            break
        ids = [*ids, reference_candidates(captioner, image, ids, search, unread=unread)[0][0]]
        if ids[-1] == captioner.language_model.tokenizer.eos_token_id:
            break
    return ids


def latest(captioner: Captioner, title: str, story: list[str], new_tokens: int) -> tuple[list[int], int]:
    """Tokens of the title and the last sentences, as many as there is room for; all of them are read."""
    positions = captioner.language_model.model.config.n_positions
    for first in range(len(story) + 1):
        ids = encoded(captioner, " ".join([title, *story[first:]]).strip())
        if 1 + len(ids) + new_tokens <= positions:
            return ids, len(ids)
    raise AssertionError("a title without room behind it")


def encoded(captioner: Captioner, text: str) -> list[int]:
    return captioner.language_model.tokenizer(text, add_special_tokens=False).input_ids


def text_of(captioner: Captioner, ids: list[int]) -> str:
    tokenizer = captioner.language_model.tokenizer
    silent = {*tokenizer.convert_tokens_to_ids([START, "<-pad->"]), *tokenizer.all_special_ids}
    text = tokenizer.decode([i for i in ids if i not in silent], clean_up_tokenization_spaces=False)
    return text.rstrip("\ufffd")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
