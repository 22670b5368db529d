// The native kernels for vocabularies of pieces against the TypeScript models.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { afterAll, describe, expect, test, vi } from "vitest";
import { encodeMany, loadTokenizer, type Tokenizer, tokenizerFromJson } from "../../src/tokenizers/index.ts";
import { nativeText } from "../../src/tokenizers/native.ts";

const golden = new URL("../golden/tokenizers/", import.meta.url);
const read = async (name: string): Promise<unknown> =>
  JSON.parse(gunzipSync(await readFile(new URL(name, golden))).toString("utf8"));
const shakespeare = (await readFile(new URL("../../data/tinyshakespeare.txt", import.meta.url), "utf8")).slice(
  0,
  150_000,
);

const folder = await mkdtemp(join(tmpdir(), "howdah-pieces-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

const pieces =
  " |  |   |\n|\r\n|\t|\u3000|\u0085|▁|▁▁|a▁|the|The| king| KING|Fox|fox's|é|e\u0301|\u0301|\u0323|Σ|ΣΑΣ|İ|ﬁ|①|㌔|ｶﾞ|½|棕色|天地玄黄|狐狸。|한국어|각|क्षि|🦊|👩‍👩‍👧|12|3456|!|...|-|\u00ad|\u200b|\u200d|\ufeff|\ufffd|\0|\u001f|\ud83d|\u00a0|ß|ไทย|\u302e|\u0600|\u0600a|\u0d4e|\u094d|\u200c|\u0903|क|क्|\u1100|\u1161|\u11a8|가|🇨|🇳|©|©\u200d|🏽|\u{e0041}|\u0e33|0\ufe0f\u20e3|\u2003| \u0301|ﬁ\u0301|①\u0301|\u00a8|\u{1d165}\u{1d16d}|<s>|</s>|<unk>|[UNK]|[CLS]|<sep>|<0x41>|xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx|supercalifragilisticexpialidocious".split(
    "|",
  );
const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 60 }),
  fc.array(fc.constantFrom(...pieces), { maxLength: 80 }).map((parts) => parts.join("")),
  fc.array(fc.constantFrom("a", "b", "the", "棕", "é", "x"), { minLength: 50, maxLength: 300 }).map((a) => a.join("")),
);

function inTypeScript(make: () => Tokenizer): Tokenizer {
  vi.stubEnv("HOWDAH_TOKENIZER", "typescript");
  const plain = make();
  plain.encode("x ".repeat(1000)); // decides now
  plain.encode("x ".repeat(1000), { allowedSpecial: "all" });
  vi.unstubAllEnvs();
  return plain;
}

const kinds = (await read("kinds.json.gz")) as { readonly name: string; readonly tokenizer: object }[];
const models = (await read("sentencepiece.json.gz")) as Record<string, { readonly model: string }>;
const tokenizers: [string, Tokenizer, Tokenizer][] = kinds.map(({ name, tokenizer }) => {
  const make = () => tokenizerFromJson(tokenizer, name);
  return [name, make(), inTypeScript(make)];
});
/** T5's file with the parts that other models of its kind have around SentencePiece's map. */
const t5 = kinds.find(({ name }) => name === "T5")!.tokenizer as Record<string, object> & {
  readonly normalizer: { readonly normalizers: readonly [object, object] };
};
const [precompiled] = t5.normalizer.normalizers;
const replace = (content: string) => ({ type: "Replace", pattern: { Regex: " {2,}" }, content });
const strip = { type: "Strip", strip_left: true, strip_right: true };
const metaspace = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "always", split: true };
const words = { type: "Sequence", pretokenizers: [{ type: "WhitespaceSplit" }, metaspace] };
const variants: Record<string, { normalizers: object[]; pre_tokenizer: object }> = {
  "words of T5": { normalizers: [precompiled], pre_tokenizer: words },
  "words, spaces marked": { normalizers: [precompiled, replace("\u2581")], pre_tokenizer: words },
  "words, spaces collapsed": {
    normalizers: [{ type: "NFKD" }, { type: "Lowercase" }, precompiled, replace(" ")],
    pre_tokenizer: words,
  },
  "stripped, at the first text only": {
    normalizers: [precompiled, strip, replace("\u2581")],
    pre_tokenizer: { ...metaspace, prepend_scheme: "first" },
  },
  "whole texts": { normalizers: [precompiled], pre_tokenizer: { ...metaspace, split: false, prepend_scheme: "never" } },
};
for (const [name, { normalizers, pre_tokenizer }] of Object.entries(variants)) {
  const make = () => tokenizerFromJson({ ...t5, normalizer: { type: "Sequence", normalizers }, pre_tokenizer }, name);
  tokenizers.push([name, make(), inTypeScript(make)]);
}
for (const [name, { model }] of Object.entries(models)) {
  const path = join(folder, `${name}.model`);
  await writeFile(path, Buffer.from(model, "base64"));
  const plain = await loadTokenizer(path);
  tokenizers.push([name, await loadTokenizer(path), inTypeScript(() => plain)]);
}

test("the native kernels are there", () => {
  expect(nativeText()).toBeDefined();
});

describe.each(tokenizers)("%s", (_, tokenizer, plain) => {
  test("native and TypeScript give the same ids", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyText, { maxLength: 5 }),
        fc.constantFrom("all" as const, "none" as const),
        fc.boolean(),
        async (texts, allowedSpecial, addSpecialTokens) => {
          const options = { allowedSpecial, addSpecialTokens };
          const expected = texts.map((text) => plain.encode(text, options));
          const many = await encodeMany(tokenizer, texts, { ...options, threads: 2 });
          expect(many.map((ids) => [...ids])).toEqual(expected);
          expect(texts.map((text) => tokenizer.encode(text, options))).toEqual(expected);
        },
      ),
      { numRuns: 150 },
    );
  });

  test("a long text has the same ids on any number of threads", async () => {
    const text = `${shakespeare}${"敏捷的棕色狐狸跳过了懒狗。天地玄黄，宇宙洪荒。 🦊🦊 It's THE Fox's 1234567 x\u0301yz\n".repeat(3000)}`;
    const expected = plain.encode(text);
    for (const threads of [1, 3]) {
      const [ids] = await encodeMany(tokenizer, [text], { threads });
      expect(ids!.length).toBe(expected.length);
      expect(ids!.every((id, i) => id === expected[i])).toBe(true);
    }
  });
});

test("a million characters without a space take no longer per character than a short text", async () => {
  for (const [name, tokenizer] of tokenizers.filter(([name]) =>
    ["LLaMA", "T5", "unigram", "bpe-bytes"].includes(name),
  )) {
    const time = async (text: string): Promise<number> => {
      const start = performance.now();
      await encodeMany(tokenizer, [text], { threads: 1 });
      return (performance.now() - start) / text.length;
    };
    for (const unit of ["a", "thequickbrownfox", "天地玄黄宇宙洪荒"]) {
      const short = "".padEnd(20_000, unit);
      await time(short);
      const base = Math.min(await time(short), await time(short), await time(short));
      expect(await time("".padEnd(1_000_000, unit)), `${name} ${unit}`).toBeLessThan(20 * base + 2e-4);
    }
  }
});
