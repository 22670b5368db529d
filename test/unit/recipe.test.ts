import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import {
  differences,
  editDistance,
  loadRecipe,
  nearest,
  parameterCount,
  parseDuration,
  parseFraction,
  parseRecipe,
  parseSize,
  type Recipe,
  RecipeError,
  stageKinds,
  writeResolved,
} from "../../src/recipe/index.ts";

const root = join(import.meta.dirname, "..", "..");
const folder = mkdtempSync(join(tmpdir(), "howdah-recipe-"));
afterAll(() => rmSync(folder, { recursive: true }));
const textFile = join(folder, "text.txt");
writeFileSync(textFile, "To be, or not to be");

const yaml = (rest: string) => `data: { text: ${JSON.stringify(textFile)} }\n${rest}`;
const read = (rest: string, overrides: string[] = []) => parseRecipe("r.yaml", yaml(rest), overrides);
const failure = (work: () => unknown): RecipeError => {
  try {
    work();
  } catch (error) {
    if (error instanceof RecipeError) return error;
    throw error;
  }
  throw new Error("the recipe was accepted");
};
const lines = (work: () => unknown) => failure(work).message.split("\n");

describe("amounts", () => {
  test("sizes, fractions and durations read as people write them", () => {
    expect(["8192", "8K", "8Ki", "5M", "1.3B", "1_000", "2mi"].map(parseSize)).toEqual([
      8192,
      8000,
      8192,
      5e6,
      1.3e9,
      1000,
      2 ** 21,
    ]);
    expect(["", "K", "5 apples", "-1", "1..2"].map(parseSize)).toEqual(Array(5).fill(undefined));
    expect(["10%", "0.1", "100%", "2.5 %"].map(parseFraction)).toEqual([0.1, 0.1, 1, 0.025]);
    expect(["90", "90s", "3 min", "1h30m", "1.5 hours", "250ms"].map(parseDuration)).toEqual([
      90, 90, 180, 5400, 5400, 0.25,
    ]);
    expect(["", "soon", "3 parsecs", "1h 30"].map(parseDuration)).toEqual(Array(4).fill(undefined));
  });
});

describe("did you mean", () => {
  test("the distance is a metric for one swap, one letter, and nothing", () => {
    expect(editDistance("layers", "layers")).toBe(0);
    expect(editDistance("lyaers", "layers")).toBe(1);
    expect(editDistance("", "abc")).toBe(3);
    const word = fc.string({ maxLength: 8 });
    fc.assert(fc.property(word, word, (a, b) => editDistance(a, b) === editDistance(b, a)));
    fc.assert(fc.property(word, word, (a, b) => (editDistance(a, b) === 0) === (a === b)));
  });

  test("near words are found, far ones are not guessed", () => {
    const keys = ["learning_rate", "layers", "vocabulary", "holdout", "epochs"];
    expect(["learning-rate", "Layer", "vocab", "holdut", "epoch"].map((word) => nearest(word, keys))).toEqual(keys);
    expect(nearest("banana", keys)).toBeUndefined();
  });
});

describe("a wrong recipe", () => {
  test("says file, line and column, the key, the value, what was expected, and the key that was probably meant", () => {
    const text = [
      `data: { text: ${JSON.stringify(textFile)}, holdut: 10% }`,
      "model:",
      "  family: gtp",
      "  layrs: 4",
      '  width: "wide"',
      "stages:",
      "  - pretran: { minutes: 3 }",
      "  - sft: { epoch: 1, schedule: cosin }",
      "sed: 1",
    ].join("\n");
    const column = text.split("\n")[0]!.indexOf("holdut") + 1;
    expect(lines(() => parseRecipe("r.yaml", text)).sort()).toEqual(
      [
        `r.yaml:1:${column}: "data.holdut" is not a known key. Did you mean "holdout"?`,
        'r.yaml:3:3: "model.family" is "gtp": expected gpt or llama. Did you mean "gpt"?',
        'r.yaml:4:3: "model.layrs" is not a known key. Did you mean "layers"?',
        'r.yaml:5:3: "model.width" is "wide": expected a whole number of at least 1, such as 8 or 8K',
        'r.yaml:7:5: "pretran" is not a known stage. Did you mean "pretrain"?',
        'r.yaml:8:12: "stages.sft.epoch" is not a known key. Did you mean "epochs"?',
        'r.yaml:8:22: "stages.sft.schedule" is "cosin": expected one of cosine, wsd, linear, constant. Did you mean "cosine"?',
        'r.yaml:9:1: "sed" is not a known key. Did you mean "seed"?',
      ].sort(),
    );
  });

  test("that is not YAML, has a key twice, or is no mapping says where", () => {
    expect(lines(() => parseRecipe("r.yaml", "a: [1\nb: 2"))[0]).toMatch(/^r\.yaml:2:1: not valid YAML/);
    expect(lines(() => read("seed: 1\nseed: 2"))[0]).toMatch(/^r\.yaml:3:1: .*unique/);
    expect(lines(() => parseRecipe("r.yaml", "[1]"))).toEqual(["r.yaml:1:1: expected keys and values, not [1]"]);
    expect(lines(() => parseRecipe("r.yaml", ""))).toHaveLength(2);
  });

  test("names the --set option that brought a wrong value, key or stage", () => {
    const bad = [
      "model.heads=x",
      "stages.sft.stepss=4",
      "stages.rewart.epochs=1",
      "modle.layers=1",
      "data.holdout.x=1",
    ];
    const said = lines(() => read("stages: [sft, reward]", bad));
    expect(said).toHaveLength(bad.length);
    for (const text of bad) expect(said.some((line) => line.startsWith(`--set ${text}: `))).toBe(true);
    expect(said.join()).toContain('Did you mean "reward"?');
    for (const text of ["model.layers", "=1", "a..b=1", "__proto__.x=1"])
      expect(() => read("stages: [sft]", [text])).toThrow(/expected key=value/);
  });

  test.each([
    ["model: { width: 100, layers: 2, heads: 3 }", "3 heads do not divide"],
    ["model: { family: llama, width: 64, layers: 2, heads: 4, kv_heads: 3 }", "does not divide 4 heads"],
    ["model: { family: llama, width: 12, layers: 1, heads: 4 }", "rotary positions turn pairs"],
    ["model: { family: gpt, width: 64, layers: 2, heads: 4, kv_heads: 2 }", "choose family: llama"],
    ["model: { params: 5M, width: 64, layers: 2 }", "leave one of them out"],
    ["model: { context: 4096 }", "less than one sequence of 4096"],
  ])("is refused where two choices do not fit: %s", (model, message) => {
    expect(failure(() => read(`${model}\nstages: [{ pretrain: { batch_tokens: 2048 } }]`)).message).toContain(message);
  });

  test.each([
    ["- pretrain: { minutes: 3, steps: 10 }", "has minutes and steps"],
    ["- pretrain: { batch_tokens: 1024, accumulate: 3 }", "does not divide the 4 sequences"],
    ["- sft: { batch: 10, accumulate: 4 }", "does not divide a batch of 10"],
    ["- ppo: { batch: 10, minibatches: 3 }", "does not divide a batch of 10"],
    ["- sft: { name: a/b }", "letters, digits"],
    ["- sft: { name: a }\n  - reward: { name: a }", 'two stages are named "a"'],
    ["- {}", "a stage is its kind"],
  ])("is refused for its stages: %s", (stages, message) => {
    expect(failure(() => read(`stages:\n  ${stages}`)).message).toContain(message);
  });

  test("names the file that is not there before anything starts", () => {
    expect(lines(() => parseRecipe("r.yaml", "data: { text: nowhere.txt }\nstages: [sft]"))[0]).toMatch(
      /^r\.yaml:1:9: "data\.text" is "nowhere\.txt": there is no such file or folder/,
    );
    expect(() => loadRecipe(join(folder, "none.yaml"))).toThrow(/cannot be read/);
  });
});

describe("a resolved recipe", () => {
  const recipe = (rest: string, overrides: string[] = []): Recipe => read(rest, overrides).recipe;

  test("has every default, and reading it again changes nothing", () => {
    const first = recipe(`stages: [${stageKinds.join(", ")}, sft]`);
    expect(first.name).toBe("r");
    expect(first.stages.map(({ name }) => name)).toEqual([...stageKinds, "sft-2"]);
    for (const stage of first.stages) expect(Object.values(stage)).not.toContain(undefined);
    const { recipe: again, derived } = parseRecipe("r.yaml", writeResolved(first));
    expect(again).toEqual(first);
    // Only what is counted is said again; nothing is chosen a second time.
    expect(derived.filter((text) => !/parameters|sequences/.test(text))).toEqual([]);
  });

  test("stays the same through YAML for any sizes", () => {
    const options = fc.record({
      params: fc.integer({ min: 20_000, max: 2_000_000_000 }),
      family: fc.constantFrom("gpt", "llama"),
      vocabulary: fc.integer({ min: 257, max: 100_000 }),
      steps: fc.integer({ min: 1, max: 1e6 }),
    });
    fc.assert(
      fc.property(options, ({ params, family, vocabulary, steps }) => {
        const text = `tokenizer: { vocabulary: ${vocabulary} }\nmodel: { params: ${params}, family: ${family} }\nstages: [{ sft: { steps: ${steps} } }]`;
        const first = recipe(text);
        expect(differences(parseRecipe("r.yaml", writeResolved(first)).recipe, first)).toEqual([]);
        expect(first.model.width % first.model.heads).toBe(0);
      }),
      { numRuns: 30 },
    );
  });

  test("overrides win, stages are found by kind, name and position, and values are YAML", () => {
    const text = "stages: [{ pretrain: { minutes: 3 } }, sft, { sft: { name: second } }, report]";
    const set = [
      "model.layers=2",
      "model.width=64",
      "stages.pretrain.minutes=1",
      "stages.sft.epochs=2",
      "stages.second.batch=8",
      "stages.3.prompts=1K",
      "name=my run",
    ];
    const { name, model, stages } = recipe(text, set);
    expect(name).toBe("my run");
    expect([model.layers, model.width]).toEqual([2, 64]);
    expect(stages).toMatchObject([
      { minutes: 1 },
      { epochs: 2, name: "sft" },
      { batch: 8, name: "second" },
      { prompts: 1000 },
    ]);
  });

  test("the dial gives the shapes people use: nanoGPT's 10.7M and about what was asked for elsewhere", () => {
    expect(recipe("model: { params: 10.7M }\ntokenizer: { vocabulary: 257 }\nstages: [sft]").model).toMatchObject({
      layers: 6,
      width: 384,
      heads: 6,
    });
    for (const params of [1e6, 5e6, 30e6, 124e6, 1e9]) {
      const { model } = recipe(`model: { params: ${params} }\nstages: [sft]`);
      const count = parameterCount(model, 1024);
      expect(Math.abs(Math.log2(count / params))).toBeLessThan(0.25);
    }
  });

  test("parameters are counted as GPT-2 and a published llama have them", () => {
    const gpt2 = {
      family: "gpt",
      layers: 12,
      width: 768,
      heads: 12,
      kv_heads: 12,
      context: 1024,
      mlp_width: 3072,
    } as const;
    expect(parameterCount({ ...gpt2, tie_embeddings: true }, 50257)).toBe(124_439_808);
    const tinyLlama = {
      family: "llama",
      layers: 22,
      width: 2048,
      heads: 32,
      kv_heads: 4,
      context: 2048,
      mlp_width: 5632,
    } as const;
    expect(parameterCount({ ...tinyLlama, tie_embeddings: false }, 32000)).toBe(1_100_048_384);
  });

  test("what was derived is said, what was given is not", () => {
    const { derived } = read("model: { layers: 6, width: 256 }\nstages: [{ pretrain: { learning_rate: 0.002 } }, sft]");
    expect(derived).toContain("heads 4");
    expect(derived.some((text) => /^\d+\.\dM parameters$/.test(text))).toBe(true);
    expect(derived.some((text) => text.startsWith("sft learning rate"))).toBe(true);
    expect(derived.some((text) => /^(layers|width|pretrain learning)/.test(text))).toBe(false);
  });

  test("differences between two recipes are listed by key", () => {
    const a = recipe("stages: [sft]");
    const b = recipe("stages: [sft]", ["seed=2", "stages.sft.batch=8"]);
    expect(differences(a, b).sort()).toEqual(["seed: 1, 2", "stages.0.batch: 16, 8"]);
    expect(differences(a, a)).toEqual([]);
  });

  test("a path is looked for beside the recipe, then above it", () => {
    mkdirSync(join(folder, "recipes"));
    const file = join(folder, "recipes", "a.yaml");
    writeFileSync(file, "data: { text: text.txt }\nstages: [report]");
    expect(loadRecipe(file).recipe.data.text).toBe(textFile);
    writeFileSync(join(folder, "recipes", "text.txt"), "nearer");
    expect(loadRecipe(file).recipe.data.text).toBe(join(folder, "recipes", "text.txt"));
  });
});

test("every recipe in recipes/ is valid", () => {
  const files = readdirSync(join(root, "recipes")).filter((file) => file.endsWith(".yaml"));
  expect(files).toContain("shakespeare.yaml");
  for (const file of files) {
    // The bundled text may be large; only its place is checked here.
    expect(readFileSync(join(root, "recipes", file), "utf8").startsWith("#"), `${file} begins with what it does`).toBe(
      true,
    );
    // A corpus is built by another command; here the index of its first shard stands for it.
    const corpus = join(folder, "corpus");
    mkdirSync(join(corpus, "shards"), { recursive: true });
    writeFileSync(join(corpus, "shards", "shard-00000.json"), '{ "vocabulary": 8192 }');
    const set = readFileSync(join(root, "recipes", file), "utf8").includes("corpus:") ? [`data.corpus=${corpus}`] : [];
    expect(loadRecipe(join(root, "recipes", file), set).recipe.stages.length).toBeGreaterThan(0);
  }
});
