import { readFile } from "node:fs/promises";
import { InputError } from "../../tensor/errors.ts";
import { fromHost } from "../../tensor/ops/creation.ts";
import { show, size } from "../../tensor/shape.ts";
import { leaves, mapTree } from "../../tensor/tree.ts";
import { parseConfig } from "../config.ts";
import { skeleton } from "../mapping.ts";
import { llamaConfig } from "./config.ts";
import { buildLlama, type Llama } from "./model.ts";

const HEADER = 7;

/**
 * Rows of a query or key projection from interleaved pairs (2i, 2i + 1), as llama2.c turns them, to halves (i, i + width / 2).
 * @param data (heads * width, columns)
 */
function halves(data: Float32Array, width: number, columns: number): Float32Array {
  const out = new Float32Array(data.length);
  for (let row = 0; row < data.length / columns; row++) {
    const within = row % width;
    const from = row - within + (within < width / 2 ? 2 * within : 2 * (within - width / 2) + 1);
    out.set(data.subarray(from * columns, (from + 1) * columns), row * columns);
  }
  return out;
}

/**
 * A Llama in the first format of llama2.c (github.com/karpathy/llama2.c): seven 32-bit numbers, then all weights in f32, each kind for all layers.
 * @throws InputError if the file is not of the length that its header says
 */
export async function readLlama2c(path: string): Promise<Llama> {
  const bytes = await readFile(path);
  if (bytes.length < HEADER * 4) throw new InputError(`${path}: not a llama2.c model: it has ${bytes.length} bytes.`);
  const numbers = Array.from({ length: HEADER }, (_, i) => bytes.readInt32LE(4 * i)) as [
    ...[number, number, number, number, number, number, number],
  ];
  const [width, mlpWidth, layers, heads, kvHeads, vocabulary, context] = numbers;
  const config = parseConfig(
    llamaConfig,
    {
      family: "llama",
      vocabulary: Math.abs(vocabulary),
      context,
      layers,
      width,
      heads,
      kvHeads,
      headWidth: width / heads,
      mlpWidth,
      epsilon: 1e-5,
      // A negative vocabulary marks a head of its own.
      tieEmbeddings: vocabulary > 0,
      tokens: { begin: 1, end: [2] },
    },
    `${path}: not a llama2.c model`,
  );
  const data = new Float32Array(
    bytes.buffer.slice(bytes.byteOffset + HEADER * 4, bytes.byteOffset + (bytes.length & ~3)),
  );
  const { headWidth } = config;
  let at = 0;
  const next = (...shape: number[]): Float32Array => {
    const n = size(shape);
    if (at + n > data.length)
      throw new InputError(
        `${path}: not a llama2.c model of the sizes in its header: it ends before weights of ${show(shape)}.`,
      );
    at += n;
    return data.subarray(at - n, at);
  };
  const perLayer = (...shape: number[]) => Array.from({ length: layers }, () => next(...shape));
  const tokens = next(config.vocabulary, width);
  const norm1 = perLayer(width);
  const q = perLayer(heads * headWidth, width);
  const k = perLayer(kvHeads * headWidth, width);
  const v = perLayer(kvHeads * headWidth, width);
  const out = perLayer(width, heads * headWidth);
  const norm2 = perLayer(width);
  const gate = perLayer(mlpWidth, width);
  const down = perLayer(width, mlpWidth);
  const up = perLayer(mlpWidth, width);
  const norm = next(width);
  // Cosines and sines of the rotary positions, which are computed here.
  next(2, context, headWidth / 2);
  const weights = new Map<string, Float32Array>([
    ["tokens.weight", tokens],
    ["norm.scale", norm],
  ]);
  if (!config.tieEmbeddings) weights.set("head.weight", next(config.vocabulary, width));
  if (at !== data.length || bytes.length % 4 !== 0)
    throw new InputError(
      `${path}: not a llama2.c model of the sizes in its header: ${bytes.length} bytes, expected ${4 * (HEADER + at)}.`,
    );
  for (let i = 0; i < layers; i++) {
    const joint = new Float32Array((heads + 2 * kvHeads) * headWidth * width);
    joint.set(halves(q[i]!, headWidth, width));
    joint.set(halves(k[i]!, headWidth, width), heads * headWidth * width);
    joint.set(v[i]!, (heads + kvHeads) * headWidth * width);
    const layer: Record<string, Float32Array> = {
      "norm1.scale": norm1[i]!,
      "attention.qkv.weight": joint,
      "attention.out.weight": out[i]!,
      "norm2.scale": norm2[i]!,
      "mlp.gate.weight": gate[i]!,
      "mlp.up.weight": up[i]!,
      "mlp.down.weight": down[i]!,
    };
    for (const [name, values] of Object.entries(layer)) weights.set(`h.${i}.${name}`, values);
  }
  const like = skeleton((key) => buildLlama(config, key));
  for (const { path: name } of leaves(like))
    if (!weights.has(name)) throw new InputError(`${path}: llama2.c's format has no ${name}.`);
  return mapTree(like, (t, name) => fromHost("f32", t.shape, weights.get(name)!));
}
