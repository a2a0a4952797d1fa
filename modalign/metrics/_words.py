"""The words of a caption, cut as the Penn Treebank tokeniser before COCO's scorers cuts them.

That tokeniser (Stanford CoreNLP 3.4.1, in Java) takes, at each place of a text, the rule that
matches the longest stretch, and of equals the first; so does this one. Its rules are written anew
from what it answers: to each character of the basic plane, to each word of up to four letters
before a full stop, and to the captions of the tests.
"""

import functools
import re
import unicodedata

_PLAIN = re.compile(r"[A-Za-z]+(?=\s)|[.,;:]\s")
# merged words, which have a rule of their own
_MERGED = {"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"}
# what COCO's list of punctuation removes, in all its ways of writing; brackets, which it means to;
# and currencies that the tokeniser does not know
_GONE = re.compile(
    "[!?.,:;\"'`(){}\\[\\]\u00ab\u00bb\u2010\u2011\u2013-\u2015\u2018\u2019\u201b-\u201d\u2026\u2039\u203a"
    "\u20a1-\u20a3\u20a5-\u20ab\u20ad-\u20cf-]"
)
_UNKNOWN = re.compile("[\ufe00-\ufe0f\U00010000-\U0010ffff]")
_REMOVED = re.compile(r"-{2,4}|\.+|''|``|&(?:md|mdash|ndash|quot|apos);")
_CLITIC = re.compile("(?i:n.t|(?:['\u2019\u0092]|&apos;)(?:[msd]|re|ve|ll))")
_QUOTES = re.compile("[`\u00ab\u00bb\u2018\u2019\u201b-\u201d\u2039\u203a]{2}")
_STRAIGHT = {
    ord(mark): written
    for written, marks in {
        "`": "\u0091\u2018\u201b\u2039",
        "'": "\u0092\u2019\u203a",
        "``": "\u00ab\u201c",
        "''": "\u00bb\u201d",
    }.items()
    for mark in marks
}
_WRITTEN = {
    "\u00bc": "1/4",
    "\u00bd": "1/2",
    "\u00be": "3/4",
    "\u2153": "1/3",
    "\u2154": "2/3",
    "\u00a2": "cents",
    "\u00a3": "#",
    "\u00a4": "$",
    "\u20ac": "$",
    "&lt;": "<",
    "&gt;": ">",
}
_ABBREVIATIONS = (
    "adj adm adv al ala alex apr ariz assn assoc asst attys? aug ave bancorp bhd bldg blvd brig "
    "bros calif capt cf cie cmdr col colo comdr conn corp cos? cpl ct dak dec dept det drs? elec "
    "ens esq est etc ext feb fla fri ft ga gen govs? hon inc ind insp intl invt jan jos jr jul jun "
    "kans? ky lieut lt ltd maj mar md messrs mfg mich minn mlle mme mo mon mont mrs? ms msgr mt "
    "mtg natl neb nev nov oct okla penn pfc ph plc ppt[ey] pres profs? pt[ey]s? pvt rd reps? rev "
    "rt sens? sept? seq sfc sgt spc sq sr ste? supts? sys tel tenn thu thurs treas tues? univ va "
    "vs vt wed wisc? wm wyo"
)
_CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_BEFORE_NUMBERS = "art ca figs? nos? op pp prop"


@functools.cache
def _rules() -> list[re.Pattern[str]]:
    """A group is the word, and what follows it has to be there; without a group all is the word."""
    letter = _class("L", "M") + "\u00ad"
    any_, digit = f"[{letter}{_class('Nd')}]", r"\d"
    apos = r"(?:['\u2019\u0092]|&apos;)"
    inner = r"(?:['\u2019\u0092`\u2018\u201b\u0091]|&apos;)"
    word = rf"[{letter}]{any_}*(?:[.!?][{letter}]{any_}*)*"
    number = rf"(?:{digit}*(?:[.:,\u00ad]{digit}+)+|{digit}+)"
    part = rf"(?:[dDoOlL]{inner}{any_})?{any_}+"
    slashed = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
    host = r"(?:[^\s!\"$'(){}|`,-_]+\.)+(?i:com|net|org|edu)"
    path = r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},-])?"
    listed = ("|".join(names.split()) for names in (_ABBREVIATIONS, _CAPITALISED, _BEFORE_NUMBERS))
    known, capitalised, before_numbers = listed
    return [
        re.compile(rule)
        for rule in (
            # merged words
            r"((?i:can))(?i:not)",
            r"((?i:'t))(?i:is|was)",
            r"((?i:gon|wan))(?i:na)",
            r"((?i:got))(?i:ta)",
            r"((?i:lem|gim))(?i:me)",
            r"(?i:[cf]#|c\+\+)",
            # marks of other formats
            r"</?[A-Za-z!?][^>\n]*>",
            r"&(?:md|mdash|ndash|lt|gt|amp|quot|apos);",
            r"&#[0-9]+;",
            # words, before clitics
            rf"({word}){apos}(?i:[msd]|re|ve|ll)",
            rf"([A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*)(?i:n{inner}t)",
            word,
            # words with an apostrophe
            rf"{apos}[nN]{apos}?",
            rf"[lLdDjJ]{apos}|(?i:dunkin|somethin|ol){apos}",
            rf"(?i:{apos}(?:em|till?|cause|[2-9]0s))",
            rf"[A-HJ-XZn]{inner}[{letter}]{{2,}}",
            rf"[{letter}]+[aeiouyAEIOUY]{inner}[aeiouA-Z][{letter}]*",
            r"(?i:cont'd\.?|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)",
            rf"(?i:cap{apos}n|c{apos}est)",
            rf"([yY]{apos})[{letter}]",
            # addresses
            r"(?i:https?)://[^\s\"<>|()]+[^\s\"<>|.!?(){},-]",
            rf"(?:(?i:www)\.(?:[^\s\"<>|.!?(){{}},]+\.)+[a-zA-Z]{{2,4}}|{host}){path}",
            r"[a-zA-Z0-9][^\s\"<>|()@]*@(?:[^\s\"<>|().]+\.)*[^\s\"<>|().]+",
            r"@[a-zA-Z_][a-zA-Z_0-9]*",
            rf"#[{letter}]+",
            # clitics
            rf"({apos}(?i:[msd]|re|ve|ll))[^A-Za-z]",
            r"(')[A-Za-z]\S",  # a single quote that opens
            rf"{apos}(?i:[msd]|re|ve|ll)",
            rf"((?i:n{inner}t))[^A-Za-z]",
            # numbers
            rf"{digit}{{1,2}}[-/]{digit}{{1,2}}[-/]{digit}{{2,4}}",
            rf"[-+]?{number}",
            "[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)",
            rf"(?:{digit}{{1,4}}[- \u00a0])?{digit}{{1,4}}(?:\\?/|\u2044){digit}{{1,4}}",
            rf"{slashed}(?:\\?/{slashed}){{1,2}}",
            r"[A-Z]*\$|#",
            # abbreviations
            rf"((?i:{before_numbers})\.)\s?{digit}",
            rf"(?:(?i:{known})|{capitalised})\.",
            r"(?:[A-Za-z]\.)+|(?i:ph|ed)\.[dD]\.|(?i:a\.k\.a)\.",
            rf"({apos}[0-9][0-9])\s",
            rf"({word}\.)[,;:]",
            # words with hyphens and other joints
            r"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:[A-Za-z0-9\u00ad]+|[A-Za-z](?:\.[A-Za-z])+\.))+",
            rf"{part}(?:[-_\u058a\u2010\u2011]{part})*",
            r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+",
            r"S(?:&|&amp;)(?:P-500|Ls)",
            r"(?i:pro|anti)-",
            # runs of one mark
            r"''|[`\u00ab\u00bb\u2018\u2019\u201b-\u201d\u2039\u203a]{2}",
            r"\.{3,}",
            r"-+",
            r"[?!]+",
            r"=+",
            r"@+",
            r"#+",
            r"_+",
            r"\*+",
            r"([<>]?[:;=][-o*']?[DPdpO\\@|])[^A-Za-z]",
        )
    ]


def _class(*categories: str) -> str:
    """The characters of the basic plane in some of Unicode's categories, for a regular expression.

    >>> import re
    >>> bool(re.fullmatch(f"[{_class('L')}]+", "caf\u00e9"))
    True
    """
    chosen, start = [], None
    for code in range(0x10000):
        inside = unicodedata.category(chr(code)).startswith(categories)
        if inside and start is None:
            start = code
        elif not inside and start is not None:
            chosen.append(rf"\u{start:04x}-\u{code - 1:04x}")
            start = None
    return "".join(chosen)


def words(text: str) -> list[str]:
    """Cut a text; :func:`modalign.metrics.caption_tokens` says how.

    >>> words("A dog\u2019s ball isn\u2019t \u201cred\u201d\u2026")
    ['a', 'dog', "'s", 'ball', 'is', "n't", 'red']
    """
    text = " ".join(_UNKNOWN.sub(" ", text).split()) + "\n"
    found: list[str] = []
    place = 0
    while place < len(text) - 1:
        plain = _PLAIN.match(text, place)
        if plain and plain[0].lower() not in _MERGED:
            found += [plain[0].lower()] if plain[0].isalpha() else []
            place = plain.end()
            continue
        longest = max(
            (match for rule in _rules() if (match := rule.match(text, place))),
            key=lambda match: match.end(),
            default=None,
        )
        # group 0 where the rule has none
        token = longest[longest.lastindex or 0] if longest else text[place]
        found += _written(token)
        place += len(token)
    return found


def _written(token: str) -> list[str]:
    """A token as the scorers see it: none where it is punctuation, two where it holds a space."""
    if _CLITIC.fullmatch(token) or _QUOTES.fullmatch(token):
        token = token.replace("&apos;", "'").translate(_STRAIGHT)
    token = _WRITTEN.get(token, token.replace("\u00ad", "").replace("&amp;", "&"))
    if len(token) == 1 and not token.isalnum():
        symbol = unicodedata.category(token)[0] in "MPS"
        return [token] if symbol and not _GONE.match(token) else []
    return [] if _REMOVED.fullmatch(token) else token.lower().split()
