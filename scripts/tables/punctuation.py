"""Writes src/data/clean/punctuation.ts: the signs that datatrove's filters count as punctuation and as ends of sentences.

    python scripts/tables/punctuation.py > src/data/clean/punctuation.ts
"""

import json

from datatrove.utils.text import PUNCTUATION, TERMINAL_PUNCTUATION

marks = "".join(sorted({c for c in PUNCTUATION if not (ord(c) < 32 or 127 <= ord(c) < 160)}))
print("// Written by scripts/tables/punctuation.py from datatrove's sets (Apache-2.0). Not to be edited by hand.")
print("/** Signs, without the control characters U+0000 to U+001F (but U+0009 and U+000A) and U+007F to U+009F, which count as well. */")
print("export const marks = " + json.dumps(marks) + ";")
print("/** Signs that end a sentence, in all scripts. */")
print("export const sentenceEnds = " + json.dumps("".join(sorted(TERMINAL_PUNCTUATION))) + ";")
