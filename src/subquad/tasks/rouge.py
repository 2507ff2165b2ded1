"""ROUGE of texts in any script: words are letters and digits, in lower case.

On ASCII these are the words of the original (Lin, 2004, https://aclanthology.org/W04-1013), which
drops all other letters. Scripts that put no spaces between words go by character.
"""

import re
import unicodedata

from subquad.tasks.labels import measuring

__all__ = ["KEYS", "RULE", "rouge", "words"]

KEYS = ("rouge1", "rouge2", "rougeL")
RULE = (
    "ROUGE is F1, without stemming, of words of letters and digits of any script in lower case "
    "(Chinese, Japanese, Thai, Lao, Khmer and Burmese by character)"
)

_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai and Lao, Burmese, Khmer
    "\u3005-\u3007\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f"  # kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"  # Han
)


def words(text: str) -> list[str]:
    """The words of a text; an accent or a vowel sign stays with its letter."""
    found: list[str] = []
    more, marked = False, False  # may another letter, or a mark, join the last word?
    for char in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(char)
        if kind == "Cf":  # joiners and soft hyphens, which nobody sees
            continue
        if kind[0] == "M" and marked:
            found[-1] += char
        elif kind[0] in "LN":
            alone = _UNSPACED.match(char) is not None
            if more and not alone:
                found[-1] += char
            else:
                found.append(char)
            more, marked = not alone, True
        else:
            more = marked = False
    return found


def rouge(said: str, true: str) -> list[float]:
    """F1 of single words, of pairs, and of the longest common subsequence."""
    with measuring():
        from torchmetrics.functional.text.rouge import rouge_score

    found = rouge_score(said, true, rouge_keys=KEYS, normalizer=str, tokenizer=words)
    return [float(found[f"{key}_fmeasure"]) for key in KEYS]
