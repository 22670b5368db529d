"""Writes test/golden/data/clean-filters.json: what datatrove's filters and spaCy's English tokenizer make of some texts.

    python test/golden/data/make.py

Needs datatrove, spacy and nltk. The texts are parts of data/tinyshakespeare.txt and texts written here, so that every rule says no at least once.
"""

import json
import os
import random

import spacy
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.c4_filters import C4ParagraphFilter
from datatrove.utils.text import split_into_sentences, split_into_words

root = os.path.join(os.path.dirname(__file__), "..", "..", "..")
play = open(os.path.join(root, "data", "tinyshakespeare.txt"), encoding="utf-8").read()
random.seed(7)


def prose(start, words):
    return " ".join(play[start:].split()[:words])


def lines(start, count, width):
    words = play[start:].split()
    return "\n".join(" ".join(words[i * width : (i + 1) * width]) + "." for i in range(count))


texts = [
    play[20000:22500],
    play[700000:704000],
    prose(1000, 300),
    prose(5000, 30),
    lines(30000, 12, 14),
    lines(60000, 40, 4),
    lines(60000, 9, 60),
    "- " + lines(90000, 20, 9).replace("\n", "\n- "),
    lines(120000, 20, 9).replace(".", "..."),
    lines(120000, 20, 9).replace(".", "…"),
    "# # " + " # ".join(prose(2000, 120).split()),
    "... " + " ... ".join(prose(2000, 90).split()),
    " ".join(str(random.randint(1, 9999)) for _ in range(200)) + " the and",
    " ".join("incomprehensibilities" for _ in range(120)) + " the and of",
    " ".join("a I o" for _ in range(60)) + " the and of",
    " ".join(w for w in prose(3000, 400).lower().split() if w.strip(",.;:!?'") not in {"the", "be", "to", "of", "and", "that", "have", "with"}),
    "\n\n".join([prose(8000, 60)] * 6),
    "\n".join([lines(8000, 4, 12)] * 3),
    prose(9000, 40) + "\n\n" + prose(9000, 40) + "\n\n" + prose(9500, 400),
    " ".join(["to be"] * 80) + " " + prose(3000, 60),
    " ".join(["not to be"] * 60) + " " + prose(3000, 120),
    prose(10000, 100) + " " + prose(10000, 100) + " " + prose(12000, 300),
    prose(15000, 60) + " " + prose(15000, 20) + " " + prose(16000, 150),
    prose(20000, 400) + "\nThis page uses cookies. Read our privacy policy here.\nPlease enable Javascript to go on.\nShort line.",
    prose(20000, 200) + "\nLorem ipsum dolor sit amet, consectetur.\n" + prose(24000, 100) + ".",
    prose(20000, 200) + ".\nif (x) { return; } and so on.\n" + prose(24000, 100) + ".",
    "\n".join(f"Name {i}" for i in range(80)),
    lines(30000, 12, 14) + "\n" + "w" * 1200 + " is a long word.\n" + lines(40000, 12, 14),
    "He said [12] that it was so [edit]. And it was [citation needed]! Was it? It was. So it goes. And more.",
    "",
    " \n\n \t ",
    "The café — naïve, isn't it? — can't be 3.5km from Dr. Smith's (U.S.A.), e.g. at https://example.com/a?b=c#d or me@example.org; won't it...\n:) :-( c++ x=y 10% $5 US$10 5€ and/or well-known 3-4 foo.Bar \"quoted\" 'single' i.e. etc.\u00a0end\u3000x",
    "你好，世界。The 中文 and English! 混合文本？" * 20,
    "emoji 😀😀 family 👨‍👩‍👧 flags 🇨🇳 and \U0001d54f letters. " * 12,
    "tabs\tand\x1cseparators\x85here\u2028and there. " * 12,
]

filters = {
    "gopher_quality": GopherQualityFilter(),
    "gopher_repetition": GopherRepetitionFilter(),
    "c4": C4QualityFilter(),
    "c4_paragraphs": C4ParagraphFilter(),
    "fineweb": FineWebQualityFilter(),
}

cases = []
for text in texts:
    case = {
        "text": text,
        "words": split_into_words(text),
        "sentences": [len(split_into_sentences(line.strip())) for line in text.split("\n") if line.strip()],
        "outcomes": {},
    }
    for name, rule in filters.items():
        document = Document(text=text, id="0")
        try:
            outcome = rule.filter(document)
        except ZeroDivisionError:
            outcome = (False, "error")
        case["outcomes"][name] = (document.text if name == "c4" else True) if outcome is True else {"no": outcome[1]}
    cases.append(case)

folder = os.path.join(root, "test", "golden", "data")
os.makedirs(folder, exist_ok=True)
with open(os.path.join(folder, "clean-filters.json"), "w", encoding="utf-8") as file:
    json.dump({"spacy": spacy.__version__, "cases": cases}, file, ensure_ascii=True)
