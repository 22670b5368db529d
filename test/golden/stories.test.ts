import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { useBackend } from "../../src/engine/index.ts";
import { loadModel, parameterCount, readLlama2c, saveModel } from "../../src/models/index.ts";
import { dispose } from "../../src/tensor/tree.ts";
import { Llama2cTokenizer } from "../../src/tokenizers/index.ts";
import { backends } from "../helpers/backends.ts";
import { greedy } from "../helpers/greedy.ts";
import { checkLeaks } from "../helpers/leaks.ts";

const golden = (name: string) => new URL(name, import.meta.url).pathname;
const weights = golden("models/stories260K/stories260K.bin");
const answer =
  "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball";

describe.each(backends.map((b) => [b.name, b] as const))("stories260K, %s", (_name, backend) => {
  beforeAll(() => {
    useBackend(backend);
  });
  checkLeaks();

  test("continues as llama2.c does at temperature 0", async () => {
    const model = await readLlama2c(weights);
    expect(parameterCount(model)).toBe(260032);
    const tokenizer = Llama2cTokenizer.parse(await readFile(golden("tokenizers/tok512.bin")), "tok512.bin");
    const prompt = tokenizer.encode("Once upon a time");
    const [ids] = await greedy(model, [prompt], tokenizer.encode(answer).length - prompt.length);
    expect(tokenizer.decode(ids!, { skipSpecialTokens: true }).trim()).toBe(answer);
    dispose(model);
  });

  test("keeps its continuation through a Hugging Face folder", async () => {
    const model = await readLlama2c(weights);
    const folder = await mkdtemp(join(tmpdir(), "howdah-"));
    await saveModel(model, folder);
    const again = await loadModel(folder);
    const prompt = [1, 403, 407, 261, 378];
    expect(await greedy(again.model, [prompt], 8)).toEqual(await greedy(model, [prompt], 8));
    dispose([model, again.model]);
    await rm(folder, { recursive: true });
  });
});

test("a llama2.c file that is cut off says so", async () => {
  const folder = await mkdtemp(join(tmpdir(), "howdah-"));
  const path = join(folder, "cut.bin");
  const whole = await readFile(weights);
  await writeFile(path, whole.subarray(0, 500_000));
  await expect(readLlama2c(path)).rejects.toThrow(/ends before weights of/);
  await writeFile(path, whole.subarray(0, 20));
  await expect(readLlama2c(path)).rejects.toThrow(/it has 20 bytes/);
  await writeFile(path, Buffer.concat([whole, Buffer.alloc(4)]));
  await expect(readLlama2c(path)).rejects.toThrow(/expected 1056540/);
  await writeFile(path, Buffer.from("this is not a model, it is a text that is long enough"));
  await expect(readLlama2c(path)).rejects.toThrow(/not a llama2.c model/);
  await rm(folder, { recursive: true });
});
