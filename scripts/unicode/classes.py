"""Writes src/tokenizers/unicode-classes.ts: which characters are letters, numbers, marks and white space, as Hugging Face `tokenizers`
(0.23.3) sees them. Its regular expressions carry their own Unicode tables (16.0), and ids agree only if ours are the same whatever
Unicode version the JavaScript engine has.

    VENV/bin/python scripts/unicode/classes.py
"""

from pathlib import Path

from tokenizers import Regex, pre_tokenizers

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
