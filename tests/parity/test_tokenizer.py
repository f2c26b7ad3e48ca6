"""Our PTB tokenizer, against a table of cases and against the Java programme it stands in for."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from magicap.metrics.tokenizer import PTB

# What Java prints for each text, less what coco-caption drops; test_java_agrees checks the table itself.
CASES = [
    ("", []),
    (" . ", []),
    ("A dog's ball.", ["a", "dog", "'s", "ball"]),
    ("Two men, one boat; a lake!", ["two", "men", "one", "boat", "a", "lake"]),
    ("They don't, can't and won't.", ["they", "do", "n't", "ca", "n't", "and", "wo", "n't"]),
    ("I'll, we've, she'd, A'S DOGS'", ["i", "'ll", "we", "'ve", "she", "'d", "a", "'s", "dogs"]),
    ("dad’s “hat” ‘on’ don’t", ["dad", "'s", "hat", "on", "do", "n't"]),
    ("’shirt 'shirt", ["'s", "hirt", "shirt"]),
    ("cannot gonna Gimme 'tis 'twas cannots", "can not gon na gim me 't is 't was cannots".split()),
    ("rock 'n' roll, rock 'n roll, 'neon'", ["rock", "'n'", "roll", "rock", "'n", "roll", "neon"]),
    ("o'clock d'oeuvres c'mon y'all", ["o'clock", "d'oeuvres", "c'mon", "y'", "all"]),
    ("Dunkin' somethin' walkin' T'Challa", ["dunkin'", "somethin'", "walkin", "t'challa"]),
    ("'em '80s 90's '57 '57.", ["'em", "'80s", "90", "'s", "'57", "57"]),
    ("t-shirt co_op x-ray- U.S.-based", ["t-shirt", "co_op", "x-ray", "u.s.-based"]),
    ("a -- b — c – d---e", ["a", "b", "c", "d", "e"]),
    ("Mr. Y, etc. at 9 a.m. in the U.S.", ["mr.", "y", "etc.", "at", "9", "a.m.", "in", "the", "u.s."]),
    ("a sheep penn. a bat. a white t.", ["a", "sheep", "penn.", "a", "bat", "a", "white", "t."]),
    ("mass. Mass. no. no. 5 inc.a", ["mass", "mass.", "no", "no.", "5", "inc.", "a"]),
    ("off the T. The end. off the T. then", "off the t the end off the t. then".split()),
    ("a beach road., a can.;", ["a", "beach", "road.", "a", "can."]),
    ("wait.. wait... wait . . . wait…", ["wait"] * 4),
    ("a!b what?! wow!!!! no!", ["a!b", "what", "?!", "wow", "!!!!", "no"]),
    ("37,000 6:53 3.5 .5 -5 9:00PM 5ft", ["37,000", "6:53", "3.5", ".5", "-5", "9:00", "pm", "5ft"]),
    ("1 1/2 1/2 1-1/2 ½ 3/4ths", ["1\xa01/2", "1/2", "1-1/2", "1/2", "3/4ths"]),
    ("12/31/1999 and/or a/b/c/d", ["12/31/1999", "and/or", "a/b/c", "/", "d"]),
    ("(555) 555-1234", ["-lrb-555-rrb-\xa0555-1234"]),
    ("$5.99 £5 5€ 5¢ US$ 5% #1", ["$", "5.99", "#", "5", "5", "$", "5", "cents", "us$", "5", "%", "#", "1"]),
    ("A&M a&b A&amp;M &lt;3 &nbsp; &quot;x&quot;", ["a&m", "a", "&", "b", "a&m", "<", "3", "x"]),
    ("<unk> <|endoftext|> <-pad-> <a b>", "<unk> < | endoftext | > < pad > <a\xa0b>".split(" ")),
    (":) :-( ^_^ <3 :D xD", [":-rrb-", ":--lrb-", "^_^", "<", "3", ":d", "xd"]),
    ("http://a.org/b. www.a.com a@b.com @you #tag", "http://a.org/b www.a.com a@b.com @you #tag".split()),
    ("1000268201_693b08cb0e.jpg dog.jpg", ["1000268201_693b08cb0e", "jpg", "dog.jpg"]),
    ("Café bou-de-sières È naïve's 日本。", ["café", "bou-de-sières", "è", "naïve", "'s", "日本", "。"]),
    ("a😀b ♥ 5° x² ™ \u200b", ["a", "b", "♥", "5", "°", "x", "²", "™"]),
    ("a\tb\xa0c\u2003d", ["a", "b", "c", "d"]),
]


@pytest.mark.parametrize(("text", "tokens"), CASES)
def test_cases(text: str, tokens: list[str]) -> None:
    assert PTB(text) == tokens


def test_brackets_stay_as_words() -> None:
    """coco-caption means to drop them, but looks for -LRB- where ``-lowerCase`` has made it -lrb-."""
    assert PTB("a (red) [b] {c}") == "a -lrb- red -rrb- -lsb- b -rsb- -lcb- c -rcb-".split()


def test_line_ends_are_spaces() -> None:
    assert PTB("a dog\nruns\r\non 1\n1/2 legs\u2028.\n") == ["a", "dog", "runs", "on", "1\xa01/2", "legs"]


def test_name_for_signatures() -> None:
    assert PTB.name == "ptb-3.4.1-py"


# text made of what rules look at, so that they meet
PIECES = [
    *"aT122é.,-/'’½<>()@#_=! \xa0\n😀\xad\u0301",
    *"dog n't 's .. &amp; Mr. U.S. .com http:// <a".split(),
]
ODD = st.text(st.characters(codec=None)) | st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


@given(ODD)
def test_any_text_gives_lower_case_words(text: str) -> None:
    for token in PTB(text):
        assert token == token.lower()
        assert token.split(" ") == [token] != [""]
        assert not set(token) & set("\t\n\r\u2028")


@given(ODD)
def test_chunks_come_from_the_cache_as_they_went_in(text: str) -> None:
    first = PTB(text)
    first.append("changed by the caller")
    assert PTB(text) == first[:-1]


@given(st.lists(st.text("abcxyz", min_size=2, max_size=8).filter(lambda word: PTB(word) == [word])))
def test_plain_words_stay_whatever_is_between_them(words: list[str]) -> None:
    for gap in (" ", "  ", "\t", "\n", " \r\n", "\u2003", ", ", " -- "):
        assert PTB(gap.join(words)) == words
    assert PTB(" ".join(PTB(" ".join(words)))) == words


@pytest.mark.parametrize("piece", ["a,", "a'", "<a ", "<!a", "a@", "+", "1 ", "&aacute;", "\u02ee"])
def test_long_text_ends(piece: str) -> None:
    """Each of these made one rule or another slow; at 20,000 characters a rule gone wild would not end."""
    assert PTB(piece * (20_000 // len(piece))) is not None


def java_tokens(captions: list[str]) -> list[list[str]]:
    """As pycocoevalcap calls the jar, and with its list of what to drop. One caption a line."""
    ptb = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
    jar = Path(ptb.__file__).with_name(ptb.STANFORD_CORENLP_3_4_1_JAR)
    program = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    text = "\n".join(captions) + "\n"
    command = [*program, "-preserveLines", "-lowerCase"]
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=True, timeout=300)
    lines = done.stdout.decode().split("\n")[:-1]
    assert len(lines) == len(captions), "Java broke a caption, or joined two"
    dropped = {"", *ptb.PUNCTUATIONS}
    return [[word for word in line.rstrip().split(" ") if word not in dropped] for line in lines]


def disagreements(captions: list[str]) -> list[tuple[str, list[str], list[str]]]:
    """(caption, ours, Java's) where they differ."""
    pairs = zip(captions, map(PTB, captions), java_tokens(captions), strict=True)
    return [(caption, ours, theirs) for caption, ours, theirs in pairs if ours != theirs]


@pytest.mark.java
def test_java_agrees() -> None:
    found = disagreements([text for text, _ in CASES if text])
    for caption, ours, theirs in found:
        print(ascii(caption), ours, theirs, sep="\n  ")
    assert found == []


@pytest.mark.java
def test_java_agrees_on_published_captions(data_dir: Path) -> None:
    """The references that MAGIC's result files hold: the text that published scores were computed on."""
    files = sorted((data_dir / ".." / "magic_results").glob("*.json"))
    if not files:
        pytest.skip("no result files of MAGIC beside the data folder")
    images = [image for file in files for image in json.loads(file.read_text())]
    captions = sorted({caption.replace("\n", " ") for image in images for caption in image["captions"]})
    found = disagreements(captions)
    agreement = 1 - len(found) / len(captions)
    print(*found, sep="\n")
    measured = "29,835 of 29,836 when this was written"
    assert agreement >= 0.999, f"{agreement:.4%} of {len(captions)} references agree; {measured}"
