import { find, type TensorSource } from "../checkpoint/safetensors.ts";
import { deviceTensor, type TensorToWrite } from "../checkpoint/write.ts";
import { DTypeError, InputError } from "../tensor/errors.ts";
import { valueAndGrad } from "../tensor/grad.ts";
import { jit } from "../tensor/jit.ts";
import { show } from "../tensor/shape.ts";
import { type Tensor, tensor } from "../tensor/tensor.ts";
import { dispose } from "../tensor/tree.ts";
import { mappingOf } from "./families.ts";
import { writeMapped } from "./mapping.ts";
import { causalIntervals } from "./masks.ts";
import { type LanguageModel, languageModelLoss, logits } from "./model.ts";

/** What a language model takes, by Hugging Face's names, with what each must be. */
const inputNames = {
  input_ids: "integers (batch, time)",
  attention_mask: "integers or booleans (batch, time): 1 for tokens, 0 for padding",
  position_ids: "integers (batch, time) or (1, time)",
  labels: "integers (batch, time): as input_ids, -100 where the token does not count",
} as const;
type InputName = keyof typeof inputNames;

/** What Hugging Face marks with -100 in `labels`. */
const IGNORED = -100;

interface Inputs {
  readonly ids: Int32Array;
  readonly batch: number;
  readonly time: number;
  readonly mask: Int32Array | undefined;
  readonly positions: { readonly data: Int32Array; readonly rows: number } | undefined;
  readonly labels: Int32Array | undefined;
}

/** Reads and checks all inputs. Every error names the tensor, what it is, and what was expected. */
async function readInputs(source: TensorSource, where: string, model: LanguageModel): Promise<Inputs> {
  for (const name of source.tensors.keys())
    if (!Object.hasOwn(inputNames, name))
      throw new InputError(
        `${where}: there is no input named "${name}"; a language model takes ${Object.keys(inputNames).join(", ")}.`,
      );
  const shape = find(source.tensors, "input_ids", where).shape;
  const describe = (name: InputName) => {
    const stored = source.tensors.get(name)!;
    return `${where}: ${name} is ${stored.dtype}${show(stored.shape)}, expected ${inputNames[name]}`;
  };
  if (shape.length !== 2 || shape.some((d) => d === 0)) throw new InputError(`${describe("input_ids")}, not empty.`);
  const [batch, time] = shape as [number, number];
  const read = async (name: InputName): Promise<Int32Array | undefined> => {
    const stored = source.tensors.get(name);
    if (!stored) return undefined;
    const rows = stored.shape[0]!;
    const fits = stored.shape.length === 2 && stored.shape[1] === time && (rows === batch || name === "position_ids");
    if (!fits || (rows !== batch && rows !== 1))
      throw new InputError(`${describe(name)}, and input_ids are ${show(shape)}.`);
    try {
      return (await source.read(name, "i32")) as Int32Array;
    } catch (error) {
      if (error instanceof DTypeError) throw new InputError(`${describe(name)}.`, { cause: error });
      throw error;
    }
  };
  const within = (name: InputName, data: Int32Array, limit: number, what: string, also?: number) => {
    const i = data.findIndex((x) => x !== also && (x < 0 || x >= limit));
    if (i >= 0)
      throw new InputError(
        `${where}: ${name}[${Math.floor(i / time)}, ${i % time}] is ${data[i]}, but ${what} 0 to ${limit - 1}.`,
      );
  };
  const { vocabulary, context } = model.config;
  const ids = (await read("input_ids"))!;
  within("input_ids", ids, vocabulary, "this model's tokens are");
  const labels = await read("labels");
  if (labels) within("labels", labels, vocabulary, `labels are ${IGNORED} or`, IGNORED);
  const places = await read("position_ids");
  if (places) within("position_ids", places, context, "this model's positions are");
  const rows = source.tensors.get("position_ids")?.shape[0] ?? 0;
  return {
    ids,
    batch,
    time,
    mask: await read("attention_mask"),
    positions: places && { data: places, rows },
    labels,
  };
}

/** Labels as targets: the token at t is judged by the label at t + 1. */
function targetsOf(labels: Int32Array, batch: number, time: number): Int32Array {
  const targets = new Int32Array(labels.length).fill(-1);
  for (let b = 0; b < batch; b++)
    for (let t = 0; t + 1 < time; t++) {
      const label = labels[b * time + t + 1]!;
      if (label !== IGNORED) targets[b * time + t] = label;
    }
  return targets;
}

/**
 * Runs a model on named tensors as transformers would, in f32 and without dropout.
 * @param inputs `input_ids`, and optionally `attention_mask`, `position_ids`, `labels`, as transformers takes them
 * @returns `logits`, `last_hidden_state`, with labels `loss`, and with `gradients` each parameter's as `gradients.` and its Hugging Face name.
 * `release` frees them.
 * @throws InputError naming the tensor that is wrong
 */
export async function forwardNamed(
  model: LanguageModel,
  inputs: TensorSource,
  options: { readonly where: string; readonly gradients?: boolean },
): Promise<{ outputs: Map<string, TensorToWrite>; loss: number | undefined; release(): void }> {
  const { where, gradients: withGradients = false } = options;
  const { ids, batch, time, mask, positions, labels } = await readInputs(inputs, where, model);
  if (withGradients && !labels)
    throw new InputError(`${where}: gradients are those of the loss, which needs labels: ${inputNames.labels}.`);
  const i32 = (data: Int32Array, rows = batch) => tensor(data, { shape: [rows, time] }) as Tensor<"i32">;
  const intervals = mask && causalIntervals(mask, batch, time);
  const given = {
    ids: i32(ids),
    context: {
      positions: positions && i32(positions.data, positions.rows),
      first: intervals && i32(intervals.first),
      end: intervals && i32(intervals.end),
    },
    targets: labels && i32(targetsOf(labels, batch, time)),
  };
  const pass = jit(
    (m: LanguageModel, { ids, context, targets }: typeof given) => {
      const { hidden } = m.hidden(ids, context);
      const out = { hidden, logits: logits(m, hidden) };
      if (!targets) return { ...out, loss: undefined, gradients: undefined };
      const lossOf = (at: LanguageModel) => languageModelLoss(at, { ids, targets }, context);
      if (!withGradients) return { ...out, loss: lossOf(m), gradients: undefined };
      const [loss, gradients] = valueAndGrad(m, lossOf);
      return { ...out, loss, gradients };
    },
    { name: "forward" },
  );
  const result = pass(model, given);
  pass.release();
  dispose(given);
  const outputs = new Map<string, TensorToWrite>([
    ["logits", deviceTensor(result.logits)],
    ["last_hidden_state", deviceTensor(result.hidden)],
  ]);
  if (result.loss) outputs.set("loss", deviceTensor(result.loss));
  if (result.gradients)
    for (const [name, gradient] of writeMapped(result.gradients, mappingOf(model.config)))
      outputs.set(`gradients.${name}`, gradient);
  return { outputs, loss: await result.loss?.item(), release: () => dispose(result) };
}
