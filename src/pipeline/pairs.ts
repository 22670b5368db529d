import { type Conversation, type Example, type PairKind, pairsOf, type SourceText, shuffled } from "../data/index.ts";
import { readConversations } from "../data/jsonl.ts";
import { encodeChat, type Tokenizer } from "../tokenizers/index.ts";
import type { Workshop } from "./workshop.ts";

/** A conversation as ids: the prompt ends where the reply is to begin; the reply ends with the end token. */
export interface EncodedPair {
  readonly prompt: readonly number[];
  readonly reply: readonly number[];
  readonly conversation: Conversation;
}

/** The pairs a job works with. The judge's are of other plays or documents than everything else's. */
export interface Pairs {
  readonly kind: PairKind | "file";
  readonly train: readonly EncodedPair[];
  readonly heldOut: readonly EncodedPair[];
  readonly judgeTrain: readonly EncodedPair[];
  readonly judgeHeldOut: readonly EncodedPair[];
}

function encodePair(tokenizer: Tokenizer, conversation: Conversation): EncodedPair | undefined {
  const { messages } = conversation;
  const answer = messages[messages.length - 1];
  if (answer?.role !== "assistant") return undefined;
  const prompt = encodeChat(tokenizer, messages.slice(0, -1), {
    addGenerationPrompt: true,
    ...(answer.name ? { assistantName: answer.name } : {}),
  }).ids;
  const whole = encodeChat(tokenizer, messages).ids;
  // The prompt is the beginning of the whole, token by token, because the name's line ends in a token of its own.
  if (whole.length <= prompt.length || prompt.some((id, i) => whole[i] !== id)) return undefined;
  return { prompt, reply: whole.slice(prompt.length), conversation };
}

/** Pairs short enough for the model, in an order shuffled by the seed. */
export async function makePairs(workshop: Workshop, source: string): Promise<Pairs> {
  const { tokenizer, recipe, documents } = workshop;
  const encodeAll = (list: readonly Conversation[], salt: number): EncodedPair[] => {
    const pairs = list
      .flatMap((c) => encodePair(tokenizer, c) ?? [])
      .filter((p) => p.prompt.length + p.reply.length <= recipe.model.context);
    return shuffled(pairs.length, recipe.seed, salt, 0).map((i) => pairs[i]!);
  };
  if (source !== "auto" && source !== "dialogue" && source !== "continuation") {
    const all = encodeAll(await readConversations(source), 1);
    const cut = (part: number) => Math.floor(all.length * part);
    return {
      kind: "file",
      train: all.slice(0, cut(0.7)),
      heldOut: all.slice(cut(0.7), cut(0.8)),
      judgeTrain: all.slice(cut(0.8), cut(0.95)),
      judgeHeldOut: all.slice(cut(0.95)),
    };
  }
  const parts = (list: readonly SourceText[], kind: PairKind | "auto") => pairsOf(list, kind);
  const train = parts(documents.train, source);
  const heldOut = parts(documents.heldOut, train.kind);
  return {
    kind: train.kind,
    train: encodeAll(train.own, 1),
    heldOut: encodeAll(heldOut.own, 2),
    judgeTrain: encodeAll(train.judge, 3),
    judgeHeldOut: encodeAll(heldOut.judge, 4),
  };
}

/** A pair for supervised tuning: the loss is on the reply only. */
export function exampleOf({ prompt, reply }: EncodedPair): Example {
  const ids = [...prompt, ...reply];
  return { ids, mask: ids.map((_, i) => (i < prompt.length ? 0 : 1)) };
}
