"""Writes src/data/clean/english-rules.ts: how spaCy's blank English pipeline cuts words, as data.

    python scripts/tables/english_words.py > src/data/clean/english-rules.ts

The rules are spaCy's (MIT licence, Explosion): the characters and patterns at which a word is cut, and the words with a cut of their own.
FineWeb, Gopher's rules in datatrove, and with them every count that compares to theirs, rest on this way of cutting.
"""

import json
import re

import spacy

tokenizer = spacy.blank("en").tokenizer


def javascript(pattern: str) -> str:
    """Python's regular expression in JavaScript's syntax, flag u."""
    pattern = pattern.removeprefix("(?u)")
    pattern = re.sub(r"\\U([0-9A-Fa-f]{8})", lambda m: "\\u{" + m.group(1).lstrip("0") + "}", pattern)
    # Escapes that mean nothing in Python are errors under the flag u.
    pattern = re.sub(r"\\([!'\"%#&,:;<>=_`~@])", r"\1", pattern)
    # \w knows all letters in Python.
    pattern = pattern.replace(r"[\w\+\-\.]", r"[\p{L}\p{N}_+\-.]")
    return pattern


rules = {
    "version": spacy.__version__,
    "prefix": javascript(tokenizer.prefix_search.__self__.pattern),
    "suffix": javascript(tokenizer.suffix_search.__self__.pattern),
    "infix": javascript(tokenizer.infix_finditer.__self__.pattern),
    "url": javascript(tokenizer.url_match.__self__.pattern),
    # Only those that are not cut by white space: [word, its pieces ...].
    "exceptions": [
        [word, *(piece[65] for piece in pieces)] for word, pieces in sorted(tokenizer.rules.items()) if not any(c.isspace() for c in word)
    ],
    "sentenceEnds": "".join(sorted(spacy.blank("en").add_pipe("sentencizer").punct_chars)),
}

print("// Written by scripts/tables/english_words.py from spaCy's rules (MIT licence, (C) ExplosionAI GmbH). Not to be edited by hand.")
print("export const englishRules: {")
print("  readonly version: string;")
for name in ("prefix", "suffix", "infix", "url", "sentenceEnds"):
    print(f"  readonly {name}: string;")
print("  readonly exceptions: readonly (readonly string[])[];")
print("} = ", end="")
print(json.dumps(rules, ensure_ascii=True, indent=1) + ";")
