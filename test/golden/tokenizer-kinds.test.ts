import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { loadTokenizer, tokenizerFromJson } from "../../src/tokenizers/index.ts";

const golden = new URL("./tokenizers/", import.meta.url);
const read = async (name: string): Promise<unknown> =>
  JSON.parse(gunzipSync(await readFile(new URL(name, golden))).toString("utf8"));

interface Case {
  readonly name: string;
  readonly tokenizer: unknown;
  readonly texts: string[];
  readonly ids: number[][];
  readonly plain: number[][];
  readonly decoded: string[];
  readonly skipped: string[];
}

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "howdah-kinds-"));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

describe("kinds of tokenizer.json", async () => {
  const cases = (await read("kinds.json.gz")) as Case[];
  test.each(cases)(
    "$name: ids and texts are those of tokenizers, and the file is written as it was",
    async (example) => {
      const tokenizer = tokenizerFromJson(example.tokenizer, example.name);
      example.texts.forEach((text, i) => {
        expect(tokenizer.encode(text, { allowedSpecial: "all" }), JSON.stringify(text)).toEqual(example.ids[i]);
        expect(
          tokenizer.encode(text, { allowedSpecial: "all", addSpecialTokens: false }),
          JSON.stringify(text),
        ).toEqual(example.plain[i]);
        expect(tokenizer.decode(example.ids[i]!)).toBe(example.decoded[i]);
        expect(tokenizer.decode(example.ids[i]!, { skipSpecialTokens: true })).toBe(example.skipped[i]);
        const stream = tokenizer.stream();
        const pieces = example.ids[i]!.map((id) => stream.push(id));
        expect(pieces.join("") + stream.end()).toBe(example.decoded[i]);
      });
      await tokenizer.save(folder);
      const saved = JSON.parse(await readFile(join(folder, "tokenizer.json"), "utf8")) as unknown;
      const again = tokenizerFromJson(saved, "saved");
      for (const text of example.texts) expect(again.encode(text)).toEqual(tokenizer.encode(text));
    },
  );
});

describe("SentencePiece models", async () => {
  const models = (await read("sentencepiece.json.gz")) as Record<
    string,
    { readonly model: string; readonly texts: string[]; readonly ids: number[][]; readonly decoded: string[] }
  >;
  test.each(Object.entries(models))(
    "%s: ids and texts are those of sentencepiece",
    async (name, { model, texts, ids, decoded }) => {
      const path = join(folder, `${name}.model`);
      await writeFile(path, Buffer.from(model, "base64"));
      const tokenizer = await loadTokenizer(path);
      texts.forEach((text, i) => {
        expect(tokenizer.encode(text), JSON.stringify(text)).toEqual(ids[i]);
        expect(tokenizer.decode(ids[i]!)).toBe(decoded[i]);
        const stream = tokenizer.stream();
        const pieces = ids[i]!.map((id) => stream.push(id));
        expect(pieces.join("") + stream.end()).toBe(decoded[i]);
      });
    },
  );
});
