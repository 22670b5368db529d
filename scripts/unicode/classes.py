"""Writes src/tokenizers/unicode-classes.ts and unicode-bert.ts. The first: which characters are letters, numbers, marks and white space, as Hugging Face `tokenizers`
(0.23.3) sees them. Its regular expressions carry their own Unicode tables (16.0), and ids agree only if ours are the same whatever
Unicode version the JavaScript engine has. The second: what its BERT normalizer and pre-tokenizer take for control characters, accents,
marks and punctuation, which comes from still other tables (a Unicode version of 2015).

    VENV/bin/python scripts/unicode/classes.py
"""

from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers

OUT = Path(__file__).parents[2] / "src" / "tokenizers" / "unicode-classes.ts"
POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, POINTS))


def members(expression):
    split = pre_tokenizers.Split(Regex(expression), "removed", True)
    return {ord(c) for piece, _ in split.pre_tokenize_str(TEXT) for c in piece}


# The bits are those of CharacterClass in the file written, and of native/src/text_scan.hpp.
BITS = [
    (1, r"\p{L}"),
    (2, r"\p{N}"),
    (4, r"\s"),
    (8, r"\p{M}"),
    (16, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (32, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
]

flags = bytearray(0x110000)
for bit, expression in BITS:
    for point in members(expression):
        flags[point] |= bit

digits = "0123456789abcdefghijklmnopqrstuvwxyz"


def base36(n):
    out = ""
    while True:
        out = digits[n % 36] + out
        n //= 36
        if n == 0:
            return out


runs, at = [], 0
while at < len(flags):
    end = at
    while end < len(flags) and flags[end] == flags[at]:
        end += 1
    runs.append(f"{base36(end - at)}.{base36(flags[at])}")
    at = end

lines, line = [], ""
for run in runs:
    if len(line) + len(run) > 110:
        lines.append(line)
        line = ""
    line += run + " "
lines.append(line.rstrip())

OUT.write_text(
    "/**\n"
    " * Classes of characters by Unicode 16.0, written by scripts/unicode/classes.py: runs of equal code points as `length.flags`, both in base 36.\n"
    " * Flags: 1 letter (L), 2 number (N), 4 white space, 8 mark (M), 16 may stand in the upper-case part of a word (Lu, Lt, Lm, Lo, M),\n"
    " * 32 may stand in its lower-case part (Ll, Lm, Lo, M).\n"
    " */\n"
    "// biome-ignore format: one long table\n"
    "export const CHARACTER_RUNS =\n"
    + " +\n".join(f'  "{text}"' for text in lines)
    + ";\n",
    encoding="utf-8",
)
print(len(runs), "runs")


def ranges(points):
    out = []
    for point in sorted(points):
        if out and out[-1][1] == point - 1:
            out[-1][1] = point
        else:
            out.append([point, point])
    return " ".join(f"{a:x}" if a == b else f"{a:x}-{b:x}" for a, b in out)


def removed_by(normalizer):
    return {c for c in POINTS if normalizer.normalize_str("a" + chr(c) + "b") == "ab"}


def bert(**on):
    off = {"clean_text": False, "handle_chinese_chars": False, "strip_accents": False, "lowercase": False}
    return normalizers.BertNormalizer(**{**off, **on})


punctuation = pre_tokenizers.Punctuation()
SETS = {
    "BERT_REMOVED": ("what cleaning removes", removed_by(bert(clean_text=True))),
    "BERT_ACCENTS": ("what stripping accents removes after NFD", removed_by(bert(strip_accents=True))),
    "MARKS": ("what StripAccents removes", removed_by(normalizers.StripAccents())),
    "PUNCTUATION": ("what stands alone as punctuation", {c for c in POINTS if len(punctuation.pre_tokenize_str("a" + chr(c) + "b")) == 3}),
}
text = "/** Sets of characters as `tokenizers` sees them, written by scripts/unicode/classes.py: ranges of code points in base 16. */\n"
for name, (what, points) in SETS.items():
    words, line, parts = ranges(points).split(" "), "", []
    for word in words:
        if len(line) + len(word) > 110:
            parts.append(line)
            line = ""
        line += word + " "
    parts.append(line.rstrip())
    text += f"\n/** {what[0].upper()}{what[1:]}. */\n// biome-ignore format: one long table\nexport const {name} =\n" + " +\n".join(f'  "{p}"' for p in parts) + ";\n"
(OUT.parent / "unicode-bert.ts").write_text(text, encoding="utf-8")
