// SentencePiece models with every option that changes how text is read, beside `sentencepiece`; made by tokenizers/make_models.py.
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { afterAll, describe, expect, test } from "vitest";
import { loadTokenizer } from "../../src/tokenizers/index.ts";

interface Model {
  readonly name: string;
  readonly kind: string;
  readonly model: string;
  readonly texts: string[];
  readonly ids: number[][];
  readonly random: number[][];
  readonly decoded: string[];
}
const file = await readFile(new URL("./tokenizers/models.json.gz", import.meta.url));
const models = JSON.parse(gunzipSync(file).toString("utf8")) as Model[];
const folder = await mkdtemp(join(tmpdir(), "howdah-models-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

describe.each(models)("a SentencePiece model: $name", ({ name, kind, model, texts, ids, random, decoded }) => {
  const read = async () => {
    const path = join(folder, `${name}.model`);
    await writeFile(path, Buffer.from(model, "base64"));
    return loadTokenizer(path);
  };

  if (texts.length === 0) {
    test("is refused by name", async () => {
      await expect(read()).rejects.toThrow(`the model type ${kind.toUpperCase()} is not supported`);
    });
    return;
  }

  test("gives the ids of sentencepiece, with and without offsets, one text at a time and many", async () => {
    const tokenizer = await read();
    expect(texts.map((text) => tokenizer.encode(text))).toEqual(ids);
    expect(texts.map((text) => tokenizer.encoding(text).ids)).toEqual(ids);
    const many = await tokenizer.encodeMany?.(texts);
    expect(many?.map((one) => [...one])).toEqual(ids);
  });

  test("gives its texts back, whole and as a stream that never ends inside of a character", async () => {
    const tokenizer = await read();
    [...ids, ...random].forEach((list, i) => {
      expect(tokenizer.decode(list)).toBe(decoded[i]);
      const stream = tokenizer.stream();
      const parts = [...list.map((id) => stream.push(id)), stream.end()];
      expect(parts.join("")).toBe(decoded[i]);
      for (const part of parts) expect(part).not.toMatch(/[\ud800-\udbff]$|^[\udc00-\udfff]/);
    });
  });
});
