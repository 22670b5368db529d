import { ApiError } from "../errors.ts";
import type { ReplyChunk, ReplyRequest } from "../host.ts";
import type { Job } from "./requests.ts";

export interface Usage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: {
    /** Tokens of the prompts that had been read before, for texts that begin alike. */
    cached_tokens: number;
  };
}

/** One finished continuation. */
export interface Choice {
  text: string;
  finish: "stop" | "length";
}

/**
 * Runs all continuations of a job at the same time.
 * Choice `p * n + i` is the i-th continuation of prompt p, seeded with `seed + p * n + i`, so that one seed gives different
 * texts which are each the same on the next day.
 * @param onChunk called with every chunk of every choice, each choice's in order; generation waits for it
 */
export async function runJob(
  job: Job,
  signal: AbortSignal,
  onChunk: (choice: number, chunk: ReplyChunk) => Promise<void> | void,
): Promise<{ choices: Choice[]; usage: Usage }> {
  // One choice that fails stops its siblings.
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  let completionTokens = 0;
  const cached = new Array<number>(job.prompts.length).fill(0);
  const one = async (prompt: readonly number[], index: number): Promise<Choice> => {
    const seed = job.seed === undefined ? {} : { seed: job.seed + index };
    const request: ReplyRequest = { ...job.sampling, prompt, ...seed };
    let text = "";
    try {
      for await (const chunk of job.host.generate(request, either)) {
        either.throwIfAborted();
        text += chunk.text;
        completionTokens += chunk.tokens.length;
        // Continuations of one prompt count it once, as `prompt_tokens` does.
        const p = Math.floor(index / job.n);
        cached[p] = Math.max(cached[p]!, chunk.cached ?? 0);
        await onChunk(index, chunk);
        if (chunk.finish !== undefined) return { text, finish: chunk.finish };
      }
    } catch (error) {
      failed.abort(error);
      throw signal.aborted ? signal.reason : error;
    }
    signal.throwIfAborted();
    const error = new ApiError(500, "internal_error", `${job.host.id} ended a reply without saying why.`);
    failed.abort(error);
    throw error;
  };
  const all = job.prompts.flatMap((prompt, p) => Array.from({ length: job.n }, (_, i) => one(prompt, p * job.n + i)));
  const settled = await Promise.allSettled(all); // a slot is free only when every continuation has really ended
  signal.throwIfAborted();
  // The first failure in time is the cause; its siblings only report that they were stopped.
  if (failed.signal.aborted) throw failed.signal.reason;
  const choices = settled.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const promptTokens = job.prompts.reduce((sum, prompt) => sum + prompt.length, 0);
  const usage = {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cached.reduce((sum, n) => sum + n, 0) },
  };
  return { choices, usage };
}
