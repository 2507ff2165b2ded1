"""A made-up language, and English sentences with their one translation into it.

    two old cats did not see a red house near the river yesterday.
    nahul jokinde sa talota punoata ko mirula vanoala kaksi nemakonas.

English is rendered from a `Sentence`, and so is the tongue, by other rules:

order       time, place, object, subject, verb, then "ka" if it is a question
nouns       stem, plural "la" or "le", case; their adjectives and quantities come behind them
harmony     suffixes have "a" behind a stem whose last vowel is a, o or u, else "e"
adjectives  take the harmony, the number and the case of their noun
verbs       "ne" before the stem negates; behind it stand tense and the number of the subject

All word forms differ, so `read` takes a sentence of the tongue apart again: either side is a
function of the other.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product

__all__ = [
    "ADJECTIVES",
    "COUNTS",
    "NOUNS",
    "PLACES",
    "QUANTITIES",
    "TENSES",
    "TIMES",
    "VERBS",
    "Noun",
    "Sentence",
    "english",
    "read",
    "tongue",
    "translate",
]


def _table(text: str) -> dict[str, str]:
    words = text.split()
    return dict(zip(words[::2], words[1::2], strict=True))


NOUNS = _table(
    "cat miru dog taso bird peli horse varko boy lemi teacher opeta farmer nuri baker fasto king "
    "rego queen suvi river joki house talo garden pihe forest metu boat vene stone kivo letter "
    "kirja basket korve lamp valu door ovi mountain huipa village kyle"
)
ADJECTIVES = _table(
    "small pik large suur old van young noor red pun green rohel blue sin quiet hilj happy rom "
    "tired vas heavy rask clean puht"
)
#: "" is "a" or "an" of one, and nothing of several
QUANTITIES = {"the": "sa", "my": "mun", "this": "tam", "": "ko"}
COUNTS = {"the": "sa", "my": "mun", "two": "kaksi", "three": "kolm", "many": "mont", "": "ko"}
_VERBS = (
    "see sees saw mako find finds found leto hear hears heard kuvi follow follows followed sero "
    "like likes liked pide paint paints painted vari help helps helped avu hold holds held piru "
    "bring brings brought tuvo lift lifts lifted nose know knows knew tunde draw draws drew joni"
)
#: base -> (what one does, what was done, stem)
VERBS = {
    base: (does, did, stem)
    for base, does, did, stem in zip(*[iter(_VERBS.split())] * 4, strict=True)
}
PLACES = {"in": "ss", "on": "ll", "near": "nd", "behind": "kk"}
TENSES = {"present": "r", "past": "n", "future": "v"}
TIMES = {
    "present": _table("today hodi often tihul always aniul"),
    "past": _table("today hodi yesterday nahul once kerul"),
    "future": _table("today hodi tomorrow manul soon kohul"),
}
_ASKS = "ka"


@dataclass(frozen=True)
class Noun:
    """A thing with what is said of it; quantity is of `QUANTITIES`, or of `COUNTS` of several."""

    noun: str
    plural: bool = False
    quantity: str = "the"
    adjectives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sentence:
    """Who does what to whom; place is a preposition and where; time is of `TIMES`, "" for none."""

    subject: Noun
    verb: str
    thing: Noun
    tense: str = "present"
    negated: bool = False
    asked: bool = False
    place: tuple[str, Noun] | None = None
    time: str = ""


# --- English --------------------------------------------------------------------------------------


def english(said: Sentence) -> str:
    """The sentence in English, a space between words."""
    subject, verb = _noun(said.subject), [said.verb]
    one = not said.subject.plural
    helper = {"present": "does" if one else "do", "past": "did", "future": "will"}[said.tense]
    no = ["not"] if said.negated else []
    if said.asked:
        head = [helper, *subject, *no, *verb]
    elif no or said.tense == "future":
        head = [*subject, helper, *no, *verb]
    else:
        does, did, _ = VERBS[said.verb]
        shown = did if said.tense == "past" else does if one else said.verb
        head = [*subject, shown]
    words = [*head, *_noun(said.thing)]
    if said.place:
        words += [said.place[0], *_noun(said.place[1])]
    words += [said.time] if said.time else []
    return " ".join(words) + ("?" if said.asked else ".")


def _noun(it: Noun) -> list[str]:
    words = [*it.adjectives, it.noun + "s" * it.plural]
    quantity = it.quantity
    if not quantity and not it.plural:
        quantity = "an" if words[0][0] in "aeiou" else "a"
    return [quantity, *words] if quantity else words


# --- the tongue -----------------------------------------------------------------------------------


def tongue(said: Sentence) -> str:
    """The sentence in the tongue, a space between words."""
    words = [TIMES[said.tense][said.time]] if said.time else []
    if said.place:
        words += _bent(said.place[1], PLACES[said.place[0]])
    words += _bent(said.thing, "t") + _bent(said.subject, "")
    words.append(_verb(said.verb, said.tense, said.negated, said.subject.plural))
    words += [_ASKS] if said.asked else []
    return " ".join(words) + ("?" if said.asked else ".")


def _harmony(stem: str) -> str:
    last = next(letter for letter in reversed(stem) if letter in "aeiouy")
    return "a" if last in "aou" else "e"


def _suffix(vowel: str, plural: bool, case: str) -> str:
    return ("l" + vowel) * plural + (case + vowel if case else "")


def _bent(it: Noun, case: str) -> list[str]:
    stem = NOUNS[it.noun]
    vowel = _harmony(stem)
    ending = _suffix(vowel, it.plural, case)
    adjectives = [f"{ADJECTIVES[word]}o{vowel}{ending}" for word in it.adjectives]
    return [stem + ending, *adjectives, (COUNTS if it.plural else QUANTITIES)[it.quantity]]


def _verb(verb: str, tense: str, negated: bool, plural: bool) -> str:
    stem = VERBS[verb][2]
    return "ne" * negated + stem + TENSES[tense] + _harmony(stem) + "s" * plural


# --- back -----------------------------------------------------------------------------------------


def read(text: str) -> Sentence:
    """The sentence that stands in the tongue. ValueError for what is none."""
    try:
        found = _parsed(iter(text.rstrip("?.").split()))
    except (KeyError, StopIteration):
        found = None
    if found is None or tongue(found) != text:
        raise ValueError(f"{text!r} is no sentence of the tongue")
    return found


def translate(text: str) -> str:
    """A sentence of the tongue in English. ValueError for what is none."""
    return english(read(text))


def _parsed(words: Iterator[str]) -> Sentence:
    nouns, adjectives, verbs = _forms()
    word, place, time = next(words), None, ""
    by_word = {said: name for times in TIMES.values() for name, said in times.items()}
    if word in by_word:
        time, word = by_word[word], next(words)
    parts: dict[str, Noun] = {}
    while word in nouns:
        noun, plural, case = nouns[word]
        about: list[str] = []
        while (word := next(words)) in adjectives:
            about.append(adjectives[word])
        known = {said: name for name, said in (COUNTS if plural else QUANTITIES).items()}
        parts[case] = Noun(noun, plural, known[word], tuple(about))
        word = next(words)
    verb, tense, negated = verbs[word]
    for name, case in PLACES.items():
        place = (name, parts[case]) if case in parts else place
    asked = next(words, "") == _ASKS
    return Sentence(parts[""], verb, parts["t"], tense, negated, asked, place, time)


@cache
def _forms() -> tuple[dict[str, tuple], dict[str, str], dict[str, tuple]]:
    """Every form of nouns, adjectives and verbs, with what it says."""
    cases = ("", "t", *PLACES.values())
    nouns, adjectives = {}, {}
    for plural, case in product((False, True), cases):
        for noun, stem in NOUNS.items():
            nouns[stem + _suffix(_harmony(stem), plural, case)] = (noun, plural, case)
        for word, vowel in product(ADJECTIVES, "ae"):
            form = f"{ADJECTIVES[word]}o{vowel}{_suffix(vowel, plural, case)}"
            adjectives[form] = word
    verbs = {
        _verb(verb, tense, negated, plural): (verb, tense, negated)
        for verb, tense, negated, plural in product(VERBS, TENSES, (False, True), (False, True))
    }
    return nouns, adjectives, verbs
