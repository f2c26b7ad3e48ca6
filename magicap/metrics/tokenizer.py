r"""Penn Treebank tokens of a caption, as Java's ``PTBTokenizer`` gives them to coco-caption, without Java.

The conventions are the treebank's (Marcus et al. 1993). The rules model the output of Stanford CoreNLP 3.4.1
(Manning et al. 2014) as coco-caption runs it (Chen et al. 2015): ``-preserveLines -lowerCase``, and then some
punctuation dropped. They are written anew, and were fitted to what the Java programme prints. Of 409,475
captions of COCO, Flickr30k, Flickr8k and others, 11 come out otherwise, all for the first reason below.

Where it does not agree with Java:

* Other captions. Java reads all captions as one text: the full stop of a last ``P.`` leaves the letter if the
  next caption begins with ``A``, ``The``, ``In`` or the like; a last ``art.``, ``no.`` or ``fig.`` keeps its
  full stop if the next begins with a digit; and the last token of all lacks the line end that a final ``'s``
  asks for. Here every caption is read by itself, as if a line that decides nothing followed.
* Line ends inside a caption other than ``\n`` (``\r``, U+2028, ...) start a new caption in Java, which shifts
  all that follow. Here they are spaces.
* Web and mail addresses that hold emoji, soft hyphens or wide spaces go on across them in Java; mail names
  longer than 100 characters are not looked for here. Tabs and wide spaces inside a tag stay in Java, and are
  no-break spaces here.
* Letters that Unicode gained after 2009 are dropped by Java and kept here; of the rarer signs, marks and
  numerals of scripts other than Latin, Greek and Cyrillic, some are kept by only one of the two.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import ClassVar, Final

# Letters are \w less digits, "_" and numerals such as ½ and Ⅷ, with the marks that Java counts among them.
_NUMERALS = r"²³¹¼-¾\u09f4-\u09f9⁰-⁹₀-₉⅐-\u2189①-⒛⓪-⓿❶-➓"
_MARKS = (
    r"\u02c2-\u02c5\u02d2-\u02df\u02e5-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065e\u0670\u06d6-\u06ed"
    r"\u0900-\u0903\u093c-\u094e\u0951-\u0955\u0981-\u0983\u09bc-\u09d7\u0e31-\u0e3a\u0e47-\u0e4e"
)
_PLAIN_LETTER = rf"(?:[^\W\d_{_NUMERALS}]|\xad|&[aeiouAEIOU](?ai:acute|grave|uml);)"
_LETTER = rf"(?:{_PLAIN_LETTER}|(?!\w)[{_MARKS}])"
_PLAIN_ALNUM = rf"(?:{_PLAIN_LETTER}|\d)"
_ALNUM = rf"(?:{_LETTER}|\d)"
_WORD = rf"{_LETTER}{_ALNUM}*+(?:[.!?]{_LETTER}{_ALNUM}*+)*"
# What rules are built of. (?a: keeps re.IGNORECASE from taking the Kelvin sign for a k.
_APOS = r"(?:['\x92’]|&apos;)"
_TICK = rf"(?:{_APOS}|[`\x91‘‛])"
_ENDING = rf"{_APOS}(?:[msdMSD]|(?ai:re|ve|ll))"
_NOT = rf"(?ai:n{_TICK}t)"
_PART = rf"(?:[dDoOlL]{_TICK}{_PLAIN_ALNUM}(?={_PLAIN_ALNUM}))?{_PLAIN_ALNUM}++"
_THING = rf"{_PART}(?:[-_‐‑]{_PART})*"
_DIGITS = r"(?:\d*(?:[.:,\xad]\d+)+|\d+)"
_SIDE = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_NO_URL = r"\s\"<>|(){}"
_URL_END = rf"[^{_NO_URL}.!?,-]"
_TAG = (
    r"<(?:[!?][A-Za-z-][^>]{0,999}|/?[A-Za-z](?a:[\w:.-])*+"
    r"(?: +[A-Za-z](?a:[\w:.-])*+(?: *= *(?:'[^']*'|\"[^\"]*\"))?)* */?)>"
)
_ACRONYM = r"(?:(?ai:Canada|Sino|Korean|EU|Japan|non)-U\.S|U\.S\.-U\.K|[A-Za-z](?:\.[A-Za-z])+)"

# Abbreviations keep their full stop. Those of the first list are looked for in words such as "inc.a" too.
_ABBREVIATIONS = (
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu(?:rs)?|Fri|"
    "Ala|Ariz|(?-i:A)z|(?-i:A)rk|Calif|Colo|Conn|Ct|Dak|(?-i:D)el|Fla|Ga|(?-i:I)ll|Ind|Kans?|Ky|(?-i:L)a|"
    "(?-i:M)ass|Md|Mich|Minn|(?-i:M)iss|Mo|Mont|Neb|Nev|Okla|(?-i:O)re|(?-i:P)a|Penn|Tenn|(?-i:T)ex|Va|Vt|"
    "(?-i:W)ash|Wisc?|Wyo|Inc|Cos?|Corp|Pp?t(?-i:[ye])s?|Ltd|Plc|Bancorp|Dept|Bhd|Assn|Univ|Intl|Sys|Rt|"
    r"Invt|Elec|Natl|M(?-i:[ft])g|bldg|tel|est|ext|sq|Jr|Sr|Bros|(?:Ed|Ph)\.D|Blvd|Rd|Esq|etc|al|seq"
)
_TITLES = (
    "Mr|Mrs|Ms|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt|Ste?|Ave|"
    "Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle|Mme|Msgr|Sfc|"
    r"vs|Alex|Wm|Jos|Cie|a\.k\.a|cf|Ph|TREAS|[A-Z]"
)
_SENTENCE_STARTS = (
    "About|According|Additionally|After|An|As|At|A|But|Earlier|Here|Her|However|He|If|In|It|Last|Many|More|"
    r"Mr\.|Ms\.|Now|Once|One|Other|Our|She|Since|Some|So|Such|That|Their|Then|There|These|The|They|This|We|"
    "What|When|While|Yet|You"
)
_FILE_ENDINGS = (
    "bat|bmp|c|class|cgi|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|"
    "tar|txt|wav|x|xml|zip"
)

# At each place the longest match wins, and the first of equals. A group, where there is one, is the token;
# what is matched after it counts for the length and is read again.
RULES: Final[dict[str, str]] = {
    # gonna -> gon na; cannot -> can not; 'tis -> 't is
    "two words": r"((?ai:can(?=not)|gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na)|'t(?=is|was)))"
    r"(?ai:not|na|ta|me|is|was)",
    "tag": _TAG,  # <a>, </b>, <img src="x">, <!-- x -->
    "dash": r"&(?ai:MD|mdash|ndash);|[\x96\x97–—―]|-+",  # -, --, —
    "space": r"(?ai:&nbsp;)",
    "entity": r"(?ai:&(?:amp|lt|gt|quot|HT|TL|UR|LR|QC|QL|QR|odq|cdq|#\d+);)",  # &amp;
    "word before 's": rf"({_WORD}){_ENDING}",  # dog | 's, I | 'll
    "word before n't": rf"([A-Za-z]*[A-MO-Za-mo-z]){_NOT}",  # do | n't, ca | n't
    "word": _WORD,  # dog, café, wow!a, foo.jpg
    # 'em, '80s, c'mon, Shi'ite, T'Challa, d' | a
    "apostrophe word": rf"{_APOS}[nN]{_APOS}|[lLdDjJ]{_APOS}|(?ai:(?:Dunkin|somethin|ol){_APOS})|"
    rf"(?ai:{_APOS}(?:em|till?|cause)|o{_APOS}o|c{_APOS}est|cap{_APOS}n)|{_APOS}[2-9]0(?ai:s)|"
    r"(?ai:c'mon|nor'easter|e'er|s'mores|ev'ry|li'l|nat'l|cont'd\.?)|"
    rf"{_LETTER}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]{_LETTER}*+|[A-HJ-XZn]{_TICK}{_LETTER}{{2,}}+",
    "'n": r"((?ai:'n))\s|(?ai:(?:’|&apos;)n)",  # rock 'n roll
    "y'": rf"([yY]{_APOS}){_LETTER}",  # y' | all
    "url": rf"(?ai:https?)://[^{_NO_URL}]+{_URL_END}",  # http://a.org/b
    "likely url": rf"(?:(?ai:www)\.(?:[^{_NO_URL}.!?,]+\.)+[a-zA-Z]{{2,4}}|"  # www.a.uk, a.com/b
    rf"(?:[^\s\"`'|!(){{}},-_$]{{1,99}}+\.)+(?ai:com|net|org|edu))(?:/[^\s\"<>|()]+{_URL_END})?",
    "email": rf"(?:<|&lt;)?[a-zA-Z0-9][^{_NO_URL}]{{0,99}}@"
    rf"(?:[^{_NO_URL}.]+\.)*[^{_NO_URL}.]+(?:>|&gt;)?",  # a@b.com
    "name": rf"@[a-zA-Z_][a-zA-Z_0-9]*|#{_LETTER}+",  # @someone, #topic
    "'s": rf"({_ENDING})[^A-Za-z]",
    "’s": _ENDING.replace("'", "", 1),  # ’s | hirt, where 'shirt is a quote and a word
    "n't": rf"({_NOT})[^A-Za-z]",
    "date": r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}",  # 12/31/1999
    "number": rf"[-+]?{_DIGITS}",  # 37,000, 6:53, .5, -5
    "raised or lowered number": r"[⁺⁻₊₋]?(?:[⁰¹²³⁴-⁹]+|[₀-₉]+)",
    "fraction": r"(?:\d{1,4}[- \xa0])?\d{1,4}(?:\\?/|⁄)\d{1,4}|[¼½¾⅓-⅞]",  # 1/2, 1 1/2, 1-1/2, ½
    "special": r"-(?ai:RRB|LRB|RCB|LCB|RSB|LSB)-|(?ai:C\.D\.s|pro-|anti-|S(?:&|&amp;)(?:P-500|Ls))",
    "slashed": rf"{_SIDE}(?:\\?/{_SIDE}){{1,2}}",  # and/or, 3/4ths
    "currency": r"[A-Z]*\$|#|[¢£¤¥\x80₠€₤]",  # US$
    "abbreviation": rf"((?ai:{_ABBREVIATIONS})\.)[\s\S]{{2}}",  # etc.
    "title": rf"{_ACRONYM}\.|(?ai:{_TITLES})\.",  # U.S., Mr., t.
    "file name": rf"({_ALNUM}++(?:\.{_ALNUM}+)*\.(?ai:{_FILE_ENDINGS}))[\s.?!,]",  # 693b.jpg
    "before comma": rf"((?:{_WORD}|{_THING})\.)[,;:、]",  # road., -> road.
    "before number": r"((?ai:ca|figs?|prop|nos?|art|bldg|pp|op)\.)\s?\d",  # no. 5
    # T. | The
    "before sentence": rf"([A-Za-z])\.\s+(?:(?=[A-Z])(?ai:{_SENTENCE_STARTS})|{_TAG})\s",
    "thing": _THING,  # t-shirt, a_b, d'oeuvres, o'clock, T'Challa
    "company": r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+",  # AT&T
    "hyphened": r"[A-Za-z0-9][A-Za-z0-9.,]*+(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9]+))+",  # U.S.-based
    "year": rf"({_APOS}\d\d)\s",  # '57
    "telephone": r"(?:\(\d{2,3}\)[ \xa0]?|(?:\+\+?)?(?:\d{2,4}[- \xa0])?\d{2,4}[- \xa0])"
    r"\d{3,4}[- \xa0]?\d{3,5}|"
    r"(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}",  # (555) 555-1234
    "smiley": r"[<>]?[:;=](?:[-o*]|'|&apos;)?[()DPdpO\\{@|\[\]](?![A-Za-z0-9])|[-^x=~<>']_[-^x=~<>']|"
    r"\([-^x=~<>'][_.]?[-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)",  # :-), ^_^, (^_^)
    "language": r"[cC]\+\+|[cCfF]#",
    "dots": r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|…",  # ..., . . .
    "run": r"@+|#+|_+|\*+|(?:\\\*){1,3}|[?!]+|<<|>>",  # !!!!, ***
    "quotes": rf"''|[`‘’‚‛“”\x91-\x94„‟‹›«»]{{1,2}}|{_APOS}|\"",
    "sign": r"[.,;:()\[\]{}<>/+%&~^|\\=×÷\xa1-\xa9\xab-\xb4\xb6-\xb9\xbb-\xbf;·\u0589\u05be\u05c0\u05c3\u05c6"
    r"״׳\u0600-\u061f٪٭\u06d4\u0700-\u070d।॥฿\u0e4f᾽\u2016\u2017†-‣‰-※‾-⁂⁄⁺-⁾₊-₎℀-⅏←-\u2bff"
    r"、。〒・\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-･\uffe0\uffe1\uffe5\uffe6]",
}
_PATTERNS: Final = tuple((name, re.compile(pattern)) for name, pattern in RULES.items())

# Rules whose tokens coco-caption drops, whatever they are: written "-", "--" and "...", and nothing.
_DROPPED_RULES = {"dash", "dots", "space"}
# coco-caption's list less what _DROPPED_RULES covers. It has "-LRB-" and its like too, but Java's
# ``-lowerCase`` has made them "-lrb-": published scores count brackets as words, and so do we, to compare.
_DROPPED = frozenset(["", *"'' ' `` ` . ? ! , : ;".split()])  # nothing is left of lone soft hyphens
_RESPELT = {
    **{"[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"},
    **{"&lt;": "<", "&gt;": ">", "&quot;": "''", '"': "''"},
    **{"£": "#", "€": "$", "₠": "$", "\x80": "$", "¤": "$", "¢": "cents"},
    **{"¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"},
}
_LETTER_BY_LETTER = str.maketrans({"(": "-lrb-", ")": "-rrb-", " ": "\xa0", "\xad": ""})
_QUOTES = str.maketrans(
    dict.fromkeys("‘‛\x91‹", "`")
    | dict.fromkeys("’\x92›", "'")
    | dict.fromkeys("“\x93«", "``")
    | dict.fromkeys("”\x94»", "''")
)
_BEYOND_JAVA = re.compile("[\ud800-\udfff\U00010000-\U0010ffff]+")  # emoji: two halves to Java, both dropped
_PLAIN = re.compile("([A-Za-z]+)[.,]?")
_NOT_PLAIN = re.compile(rf"{RULES['two words']}|(?ai:{_ABBREVIATIONS}|{_TITLES})")  # these keep a full stop
# Whatever may be a token, or decide one, across white space: 1 1/2, (555) 1234, . . ., <a b>, T. The, no. 5
_ACROSS = re.compile(
    r"[\d).<](?:(?<=[\d)])[ \xa0]\d|(?<=\.)\s(?:[.\d]|(?<=\b[A-Za-z]\.\s))|(?<=<)[^<>\s]+\s)"
)


def _matches(text: str) -> Iterator[tuple[str, str]]:
    """(rule, token) from left to right; what no rule knows is passed over, as Java does."""
    text += "  "  # some rules look two characters ahead
    place = 0
    while place < len(text):
        end, rule, token = place, "", ""
        for name, pattern in _PATTERNS:
            match = pattern.match(text, place)
            if match and match.end() > end:
                end, rule, token = match.end(), name, match[1] if pattern.groups and match[1] else match[0]
        place += max(len(token), 1)
        if token:
            yield rule, token


def _spell(rule: str, token: str) -> str:
    """The token as Java prints it."""
    if rule in {"'s", "’s", "n't", "quotes"}:
        token = token.replace("&apos;", "'").translate(_QUOTES)
    elif rule in {"entity", "company", "special"}:
        token = token.replace("&amp;", "&")
    elif rule == "tag":
        token = re.sub(r"\s", "\xa0", token)
    token = token.translate(_LETTER_BY_LETTER).lower()
    return _RESPELT.get(token, token)


def _tokens(text: str) -> tuple[str, ...]:
    plain = _PLAIN.fullmatch(text)
    if plain and not _NOT_PLAIN.fullmatch(plain[1]):
        return (plain[1].lower(),)
    matches = _matches(_BEYOND_JAVA.sub(" ", text))
    spelt = (_spell(rule, token) for rule, token in matches if rule not in _DROPPED_RULES)
    return tuple(token for token in spelt if token not in _DROPPED)


_cached_tokens = functools.lru_cache(maxsize=1 << 16)(_tokens)


class PTBTokenizer:
    """Caption to lower-case tokens without punctuation.

    Takes any text and never raises; line ends count as spaces. The one kind of white space inside a token is
    the no-break space that Java puts into ``1 1/2``, which coco-caption's metrics later split at.

    >>> PTB("A dog's ball, isn't it?")
    ['a', 'dog', "'s", 'ball', 'is', "n't", 'it']
    """

    name: ClassVar[str] = "ptb-3.4.1-py"
    """For the signatures of scores."""

    def __call__(self, text: str) -> list[str]:
        """The tokens of a caption, in order; none of an empty one."""
        text = " ".join(text.splitlines())
        if _ACROSS.search(text):
            return list(_tokens(text))
        # captions share most of their words; a chunk too long to be one would only fill the cache
        return [
            token
            for chunk in text.split()
            for token in (_cached_tokens if len(chunk) < 64 else _tokens)(chunk)
        ]


PTB: Final = PTBTokenizer()
