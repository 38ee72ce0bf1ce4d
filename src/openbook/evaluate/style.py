"""Text style transfer by prompt, the demonstration of LaMDA and of Reif et al. 2021 ("A recipe for arbitrary text style transfer with large
language models"): sentences, styles, and what can be measured of a rewrite without a person.

There is no right answer. `change` and `content_overlap` compare the rewrite with the text, and pull in opposite directions; whether the
style is there is only measured where it asks for a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from openbook.evaluate.answers import normalised

STYLES = {
    "is more melodramatic": "",
    "is more comedic": "",
    "is more descriptive": "",
    "includes a metaphor": "",
    "includes the word 'balloon'": "balloon",
    "includes the word 'park'": "park",
}
"""The six of Reif et al. 2021, section 3, and the word that a style asks for."""
SENTENCES = (
    "The bus was late again, so Mara walked to work.",
    "He put the letter back into the drawer and closed it.",
    "It rained for most of the night.",
    "The old dog slept in front of the fire.",
    "She found a coin on the stairs and gave it to her brother.",
    "Nobody answered the door.",
    "The bread had burnt while they were talking.",
    "Two men carried the piano up to the third floor.",
    "The light in the kitchen was still on when he came home.",
    "They waited an hour for the ferry.",
    "Her grandmother kept the buttons in a tin box.",
    "The train stopped between two stations.",
)


def style_items() -> list[dict[str, str]]:
    """Every sentence in every style: {text, style, word}."""
    return [{"text": text, "style": style, "word": word} for text in SENTENCES for style, word in STYLES.items()]


def change(said: str, text: str) -> float:
    """Edits of words that turn the text into the rewrite, over the longer one's words: 0 for a copy, 1 where no word stayed in place."""
    one, other = normalised(text).split(), normalised(said).split()
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, wanted in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != wanted))
    return row[-1] / max(len(one), len(other), 1)


def content_overlap(said: str, texts: Sequence[str]) -> float:
    """F1 over words longer than three letters, which carry the content; over all words where the text has none."""
    return max(_f1(_content(said), _content(text)) if _content(text) else _f1(_words(said), _words(text)) for text in texts)


def _words(text: str) -> Counter[str]:
    return Counter(normalised(text).split())


def _content(text: str) -> Counter[str]:
    return Counter(word for word in normalised(text).split() if len(word) > 3)


def _f1(said: Counter[str], wanted: Counter[str]) -> float:
    return 2 * (said & wanted).total() / ((said.total() + wanted.total()) or 1)
