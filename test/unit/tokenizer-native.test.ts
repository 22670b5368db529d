import { readFile } from "node:fs/promises";
import fc from "fast-check";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  ByteLevelTokenizer,
  checkTokenizerFile,
  encodeMany,
  trainByteLevel,
  trainByteLevelBpe,
} from "../../src/tokenizers/index.ts";
import { characterClasses, nativeText, scannerOf } from "../../src/tokenizers/native.ts";
import { GPT2_PATTERN } from "../../src/tokenizers/pretokenize.ts";
import { translateRegex } from "../../src/tokenizers/regex.ts";

const shakespeare = (await readFile(new URL("../../data/tinyshakespeare.txt", import.meta.url), "utf8")).slice(
  0,
  200_000,
);
const corpus = `${shakespeare}${"敏捷的棕色狐狸跳过了懒狗。天地玄黄，宇宙洪荒。 🦊🦊 It's THE Fox's 1234567 x\u0301yz\n".repeat(40)}`;

const LLAMA3 =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const O200K =
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|" +
  "\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const CL100K =
  "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++|\\p{N}{1,3}+| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*+|\\s++$|\\s*[\\r\\n]|\\s+(?!\\S)|\\s";
const PATTERNS = { gpt2: GPT2_PATTERN, llama3: LLAMA3, qwen2: LLAMA3.replace("{1,3}", ""), o200k: O200K };

/** Characters on which this engine's Unicode version and that of the tables (16.0) disagree, replaced by one they agree on. */
const classes = characterClasses();
const settled = (text: string): string =>
  Array.from(text, (c) => {
    const flags = classes[c.codePointAt(0)!]!;
    const same = [/\p{L}/u, /\p{N}/u, /\p{White_Space}/u, /\p{M}/u].every(
      (e, i) => e.test(c) === (((flags >> i) & 1) !== 0),
    );
    return same ? c : "\ufffd";
  }).join("");

const pieces = [
  " ",
  "  ",
  "\n",
  "\r\n",
  "\t",
  "\u3000",
  "\u0085",
  "'s",
  "'LL",
  "'ſ",
  "'",
  "fox",
  "The",
  "HTTPServer",
  "ǅ",
  "ʰ",
  "ª",
  "é",
  "e\u0301",
  "\u0301",
  "棕色",
  "한국어",
  "🦊",
  "👩‍👩‍👧",
  "12",
  "3456",
  "½",
  "Ⅷ",
  "/",
  "//",
  "!",
  "...",
  "<|end|>",
  "\0",
  "\ud83d",
  "\u00a0",
  "ß",
  "İ",
  "ا",
  "ไทย",
  "\u200d",
];
const anyText = fc
  .oneof(
    fc.string({ unit: "binary", maxLength: 60 }),
    fc.array(fc.constantFrom(...pieces), { maxLength: 60 }).map((a) => a.join("")),
    fc.array(fc.constantFrom("a", "b", "the", "棕", "é"), { minLength: 100, maxLength: 400 }).map((a) => a.join("")),
  )
  .map(settled);

afterEach(() => {
  vi.unstubAllEnvs();
});

/** The same file without the native kernels. */
function inTypeScript(tokenizer: ByteLevelTokenizer): ByteLevelTokenizer {
  vi.stubEnv("HOWDAH_TOKENIZER", "typescript");
  const plain = tokenizer.withChatTemplate("");
  plain.encode("x".repeat(1000)); // decides now
  vi.unstubAllEnvs();
  return plain;
}

test("the native kernels are there", () => {
  expect(nativeText()).toBeDefined();
});

describe.each(Object.entries(PATTERNS))("with the pattern of %s", (_, pattern) => {
  const tokenizer = trainByteLevelBpe([corpus], { vocabulary: 1500, pattern, specialTokens: ["<|end|>"] });
  const plain = inTypeScript(tokenizer);

  test("native and TypeScript give the same ids, and the text comes back", async () => {
    expect(scannerOf(pattern)).toBeDefined();
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyText, { maxLength: 5 }),
        fc.constantFrom("all" as const, "none" as const),
        async (texts, allowedSpecial) => {
          const encoded = await encodeMany(tokenizer, texts, { allowedSpecial });
          texts.forEach((text, i) => {
            const expected = plain.encode(text, { allowedSpecial });
            expect([...encoded[i]!]).toEqual(expected);
            expect(tokenizer.encode(text, { allowedSpecial })).toEqual(expected);
            expect(tokenizer.decode(expected)).toBe(text.replace(/\p{Surrogate}/gu, "\ufffd"));
          });
        },
      ),
      { numRuns: 300 },
    );
  });

  test("a long text is cut for several threads without a trace", async () => {
    const long = `${corpus} \n  ${corpus.replaceAll(" ", "")}\n\n${"狐狸/\n".repeat(30_000)}${" \n ".repeat(50_000)}end  `;
    const expected = Uint32Array.from(plain.encode(long));
    for (const threads of [1, 2, 5]) {
      const [ids] = await encodeMany(tokenizer, [long], { threads });
      expect(Buffer.compare(Buffer.from(ids!.buffer), Buffer.from(expected.buffer))).toBe(0);
    }
  });

  test("training gives the merges of the TypeScript trainer", async () => {
    const native = await trainByteLevel([corpus], { vocabulary: 1500, pattern, specialTokens: ["<|end|>"] });
    for (let id = 0; id < 1500; id++) expect(native.idToToken(id)).toBe(tokenizer.idToToken(id));
    const words = fc.array(fc.constantFrom("a", "b", "ab", " ", "ba", "棕"), { maxLength: 80 }).map((a) => a.join(""));
    await fc.assert(
      fc.asyncProperty(
        fc.array(words, { maxLength: 4 }),
        fc.integer({ min: 1, max: 3 }),
        async (texts, minFrequency) => {
          const options = { vocabulary: 300, pattern, minFrequency, specialTokens: ["ab", "棕"] };
          const expected = trainByteLevelBpe(texts, options);
          const found = await trainByteLevel(texts, options);
          expect(found.vocabularySize).toBe(expected.vocabularySize);
          for (let id = 0; id < expected.vocabularySize; id++) expect(found.idToToken(id)).toBe(expected.idToToken(id));
        },
      ),
      { numRuns: 60 },
    );
  });
});

test("cl100k's own expression, whose end of text goes first, is cut as the expression says", async () => {
  const trained = trainByteLevelBpe([corpus], { vocabulary: 256 });
  const byteIds = Uint32Array.from({ length: 256 }, (_, byte) => byte);
  const text = nativeText()!;
  const model = text.bpeCreate(
    scannerOf(CL100K)!,
    byteIds,
    new Uint32Array(0),
    new Uint8Array(0),
    new Uint32Array(0),
    new Uint32Array(0),
  );
  expect(trained.vocabularySize).toBe(256);
  // Merges of each expected piece's bytes do not exist, so the pieces are seen by counting words instead.
  const expression = translateRegex(CL100K, "fancy-regex");
  await fc.assert(
    fc.asyncProperty(anyText, async (raw) => {
      const clean = raw.replace(/\p{Surrogate}/gu, "\ufffd");
      expect((clean.match(expression) ?? []).join("")).toBe(clean);
      expect(Buffer.from(text.bpeEncode(model, Buffer.from(clean))).toString("utf8")).toBe(clean);
      // Each expected piece as a whole token of its own: the ids are then the pieces.
      const words = [...new Set(clean.match(expression) ?? [])].map((word) => new Uint8Array(Buffer.from(word)));
      let at = 0;
      const ends = Uint32Array.from(words, (word) => (at += word.length));
      const whole = text.bpeCreate(
        scannerOf(CL100K)!,
        byteIds,
        new Uint32Array(0),
        new Uint8Array(Buffer.concat(words)),
        ends,
        Uint32Array.from(words, (_, i) => 1000 + i),
      );
      const found = [...text.bpeEncode(whole, new Uint8Array(Buffer.from(clean)))].map((id) =>
        id >= 1000 ? Buffer.from(words[id - 1000]!).toString("utf8") : `byte ${id}`,
      );
      expect(found).toEqual(clean.match(expression) ?? []);
    }),
    { numRuns: 400 },
  );
});

test("a line of a million letters without a space takes no longer per letter than a short one", async () => {
  const tokenizer = trainByteLevelBpe([corpus], { vocabulary: 1000 });
  const line = "thequickbrownfoxjumps".repeat(50_000);
  const start = performance.now();
  const [ids] = await encodeMany(tokenizer, [line]);
  expect(performance.now() - start).toBeLessThan(10_000);
  expect(tokenizer.decode([...ids!])).toBe(line);
});

test("broken UTF-8 counts as U+FFFD, as in the text it decodes to", async () => {
  const tokenizer = trainByteLevelBpe([corpus], { vocabulary: 1000 });
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 50 }), async (bytes) => {
      const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);
      const [ids] = await encodeMany(tokenizer, [bytes]);
      expect([...ids!]).toEqual(tokenizer.encode(text));
    }),
  );
});

test("what surrounds a text, normalisation and prefix spaces are the same in native code", async () => {
  const trained = trainByteLevelBpe([corpus], { vocabulary: 500 });
  const byteLevel = { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true };
  const file = checkTokenizerFile(
    {
      added_tokens: [{ id: 500, content: "<s>", normalized: false, special: true }],
      normalizer: { type: "NFC" },
      pre_tokenizer: byteLevel,
      decoder: byteLevel,
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 0 } }],
        special_tokens: { "<s>": { id: "<s>", ids: [500], tokens: ["<s>"] } },
      },
      model: {
        vocab: Object.fromEntries(Array.from({ length: 500 }, (_, id) => [trained.idToToken(id), id])),
        merges: [],
        ignore_merges: true,
      },
    },
    "made here",
  );
  const native = new ByteLevelTokenizer(file);
  const plain = inTypeScript(native);
  const text = `x the Fox e\u0301 <s> ${shakespeare.slice(0, 5000)}`;
  for (const addSpecialTokens of [true, false]) {
    for (const allowedSpecial of ["all", "none"] as const) {
      const expected = plain.encode(text, { addSpecialTokens, allowedSpecial });
      expect(native.encode(text, { addSpecialTokens, allowedSpecial })).toEqual(expected);
      const [ids] = await encodeMany(native, [text], { addSpecialTokens, allowedSpecial });
      expect([...ids!]).toEqual(expected);
    }
  }
});

test("a special token of the model's vocabulary comes out of no text unless it is allowed, whole or merged", async () => {
  const bytes = trainByteLevelBpe([], { vocabulary: 256 });
  const tokens = Array.from({ length: 256 }, (_, id) => bytes.idToToken(id)!);
  const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true };
  // No merge makes "unk" and "whole"; "word" is made by one.
  const names = [...tokens, "wo", "rd", "word", "unk", "whole"];
  const merges = [
    ["w", "o"],
    ["r", "d"],
    ["wo", "rd"],
  ];
  for (const ignore_merges of [true, false]) {
    const special = ["unk", "word"].map((content) => ({
      id: names.indexOf(content),
      content,
      normalized: false,
      special: true,
    }));
    const file = checkTokenizerFile(
      {
        added_tokens: special,
        pre_tokenizer: byteLevel,
        decoder: byteLevel,
        model: {
          vocab: Object.fromEntries(names.map((name, id) => [name, id])),
          merges,
          ignore_merges,
          unk_token: "unk",
        },
      },
      "made here",
    );
    const native = new ByteLevelTokenizer(file);
    const ids = special.map(({ id }) => id);
    for (const text of ["unk", "word", "whole", "unk word\nword-unk whole sentinel ".repeat(20)]) {
      for (const tokenizer of [native, inTypeScript(native)]) {
        const plain = tokenizer.encode(text, { allowedSpecial: "none" });
        const [many] = await encodeMany(tokenizer, [text], { allowedSpecial: "none" });
        expect([...many!]).toEqual(plain);
        expect(plain.filter((id) => ids.includes(id))).toEqual([]);
        expect(tokenizer.decode(plain)).toBe(text);
        if (text === "whole" && ignore_merges) expect(plain).toEqual([names.indexOf("whole")]);
        if (text === "word") expect(tokenizer.encode(text, { allowedSpecial: "all" })).toEqual([names.indexOf("word")]);
      }
    }
  }
});
