import { execFile } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { hostTensor, readSafetensors, type TensorToWrite, writeSafetensors } from "../../src/checkpoint/index.ts";
import { forward } from "../../src/cli/commands/forward.ts";
import { runCli } from "../../src/cli/frame.ts";
import { useBackend } from "../../src/engine/index.ts";
import { gptConfig, initModel, llamaConfig, type ModelConfig, saveModel } from "../../src/models/index.ts";
import { normal, randomKey, splitKey } from "../../src/tensor/ops/random.ts";
import { dispose, mapTree } from "../../src/tensor/tree.ts";
import { backends } from "../helpers/backends.ts";
import { captureOutput } from "../support/output.ts";

const root = mkdtempSync(join(tmpdir(), "howdah-forward-"));
afterAll(() => rmSync(root, { recursive: true }));
beforeAll(() => void useBackend(backends.at(-1)!));
const golden = (name: string) => new URL(`../golden/models/${name}`, import.meta.url).pathname;

const written = captureOutput();

async function howdah(
  ...argv: string[]
): Promise<{ exitCode: number; result: Record<string, unknown>; error: string }> {
  written.out = "";
  const exitCode = await runCli({ commands: [forward], version: "0" }, ["forward", ...argv]);
  const result = JSON.parse(written.out.trimEnd().split("\n").at(-1)!) as { error?: { message: string } };
  return { exitCode, result: { ...result }, error: result.error?.message ?? "" };
}

const i32 = (shape: number[], values: number[]) => hostTensor("i32", shape, Int32Array.from(values));
async function inputs(name: string, tensors: Record<string, TensorToWrite>): Promise<string> {
  const path = join(root, name);
  await writeSafetensors(path, new Map(Object.entries(tensors)));
  return path;
}

function distance(got: readonly number[], expected: readonly number[]): number {
  expect(got.length).toBe(expected.length);
  const scale = Math.max(...expected.map(Math.abs));
  return Math.max(...got.map((x, i) => Math.abs(x - expected[i]!))) / scale;
}

describe.each(backends.map((b) => b.name))("howdah forward, %s", (backend) => {
  test.each(["gpt2", "qwen2"])("gives what transformers gives for %s, gradients too", async (name) => {
    const expected = await readSafetensors(join(golden(name), "expected.safetensors"));
    const host = async (key: string) => {
      const t = expected.get(key)!;
      return hostTensor("i32", t.shape, await t.data());
    };
    const from = await inputs("in.safetensors", {
      input_ids: await host("input_ids"),
      labels: await host("labels"),
      attention_mask: i32([2, 12], new Array<number>(24).fill(1)),
    });
    const to = join(root, "out.safetensors");
    const { exitCode, result } = await howdah(
      ...["--model", golden(name), "--inputs", from, "--outputs", to, "--gradients", "--backend", backend],
    );
    expect(exitCode).toBe(0);
    expect(result.backend).toBe(backend);
    expect(result.loss).toBeCloseTo(await expected.get("loss")!.item(), 4);
    const got = await readSafetensors(to);
    const names = [...expected.keys()].filter((key) => /^(logits|loss|last_hidden_state|gradients\..*)$/.test(key));
    expect([...got.keys()].sort()).toEqual(names.sort());
    for (const key of names) {
      expect(got.get(key)!.shape).toEqual(expected.get(key)!.shape);
      expect(distance(await got.get(key)!.numbers(), await expected.get(key)!.numbers()), key).toBeLessThan(1e-4);
    }
    dispose([[...got.values()], [...expected.values()]]);
  });
});

describe("howdah forward says what is wrong with", () => {
  const ids = i32([1, 4], [3, 4, 5, 6]);
  const to = join(root, "never.safetensors");
  const run = (from: string, ...more: string[]) =>
    howdah("--model", golden("gpt2"), "--inputs", from, "--outputs", to, "--backend", "reference", ...more);

  test.each<[string, Record<string, TensorToWrite>, RegExp]>([
    ["a missing tensor", { labels: ids }, /there is no tensor "input_ids"; there are labels/],
    ["an unknown tensor", { input_ids: ids, inputs: ids }, /no input named "inputs"; a language model takes input_ids/],
    [
      "a dtype",
      { input_ids: hostTensor("f32", [1, 4], new Float32Array(4)) },
      /input_ids is F32\(1, 4\), expected integers \(batch, time\)/,
    ],
    ["a rank", { input_ids: i32([4], [3, 4, 5, 6]) }, /input_ids is I32\(4\), expected integers \(batch, time\)/],
    [
      "a shape",
      { input_ids: ids, attention_mask: i32([1, 3], [1, 1, 1]) },
      /attention_mask is I32\(1, 3\), expected .*, and input_ids are \(1, 4\)/,
    ],
    ["a token", { input_ids: i32([1, 2], [3, 61]) }, /input_ids\[0, 1\] is 61, but this model's tokens are 0 to 60/],
    [
      "a label",
      { input_ids: ids, labels: i32([1, 4], [-100, -1, 2, 3]) },
      /labels\[0, 1\] is -1, but labels are -100 or 0 to 60/,
    ],
    [
      "a position",
      { input_ids: ids, position_ids: i32([1, 4], [0, 1, 2, 32]) },
      /position_ids\[0, 3\] is 32, but this model's positions are 0 to 31/,
    ],
    [
      "a mask with a hole",
      { input_ids: ids, attention_mask: i32([1, 4], [1, 0, 1, 1]) },
      /row 0 has a hole before token 2/,
    ],
    ["rows that are too long", { input_ids: i32([1, 33], new Array<number>(33).fill(3)) }, /33 tokens, .* at most 32/],
  ])("%s", async (_what, tensors, message) => {
    const { exitCode, error } = await run(await inputs("wrong.safetensors", tensors));
    expect(error).toMatch(message);
    expect(exitCode).toBe(2);
  });

  test("gradients without labels", async () => {
    const { error } = await run(await inputs("bare.safetensors", { input_ids: ids }), "--gradients");
    expect(error).toMatch(/gradients are those of the loss, which needs labels/);
  });

  test("a file that is not safetensors", async () => {
    const path = join(root, "text.safetensors");
    writeFileSync(path, "hello, this is a text");
    expect((await run(path)).error).toMatch(/not a safetensors file: its header would be/);
  });
});

const python = process.env.HOWDAH_PYTHON;
if (!python)
  console.warn("transformers does not read our folders in this run: set HOWDAH_PYTHON to a Python that has it.");

/** Loads folders that we saved, and writes their logits for the ids in each. */
const script = `
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
for folder in sys.argv[1:]:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    assert model.dtype == torch.float32, model.dtype
    with torch.no_grad():
        ids = load_file(folder + "/in.safetensors")["input_ids"].long()
        save_file({"logits": model.eval()(ids).logits}, folder + "/theirs.safetensors")
`;

const llama = {
  family: "llama" as const,
  vocabulary: 50,
  context: 40,
  layers: 2,
  width: 32,
  heads: 4,
  kvHeads: 2,
  headWidth: 8,
  mlpWidth: 48,
};
const configs: [string, ModelConfig][] = [
  [
    "gpt",
    gptConfig.parse({
      family: "gpt",
      vocabulary: 50,
      context: 40,
      layers: 2,
      width: 32,
      heads: 4,
      mlpWidth: 96,
      activation: "gelu",
      epsilon: 1e-3,
      tieEmbeddings: false,
      tokens: { begin: 0, end: [1, 2] },
    }),
  ],
  [
    "llama, linear scaling",
    llamaConfig.parse({ ...llama, rotary: { theta: 500, scaling: { kind: "linear", factor: 3 } } }),
  ],
  [
    "llama, all biases, scaled",
    llamaConfig.parse({
      ...llama,
      headWidth: 16,
      attentionBias: "all",
      mlpBias: true,
      tieEmbeddings: true,
      rotary: {
        theta: 1000,
        scaling: { kind: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4, originalContext: 20 },
      },
    }),
  ],
  ["llama with Qwen2's biases", llamaConfig.parse({ ...llama, attentionBias: "qkv" })],
];

describe.skipIf(!python)("transformers reads what we save", () => {
  beforeAll(async () => {
    for (const [name, config] of configs) {
      const fresh = initModel(config, randomKey(1));
      // Norms and biases too are moved from where they start, so that each of them counts.
      let keys = splitKey(randomKey(2), 100);
      const model = mapTree(fresh, (t) => {
        const [key, ...rest] = keys;
        keys = rest;
        return t.add(normal(key!, t.shape).mul(0.1));
      });
      await saveModel(model, join(root, name));
      await inputs(`${name}/in.safetensors`, {
        input_ids: i32(
          [2, 32],
          Array.from({ length: 64 }, (_, i) => (i * 17) % 50),
        ),
      });
      dispose([fresh, model]);
    }
    const folders = configs.map(([name]) => join(root, name));
    await promisify(execFile)(python!, ["-c", script, ...folders], { env: { ...process.env, HF_HUB_OFFLINE: "1" } });
  }, 300_000);

  test.each(configs)("%s", async (name) => {
    const folder = join(root, name);
    const [from, ours] = [join(folder, "in.safetensors"), join(folder, "ours.safetensors")];
    const { exitCode } = await howdah("--model", folder, "--inputs", from, "--outputs", ours);
    expect(exitCode).toBe(0);
    const [got, wanted] = [await readSafetensors(ours), await readSafetensors(join(folder, "theirs.safetensors"))];
    expect(distance(await got.get("logits")!.numbers(), await wanted.get("logits")!.numbers())).toBeLessThan(1e-4);
    dispose([[...got.values()], [...wanted.values()]]);
  });
});
