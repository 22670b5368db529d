import { z } from "zod";
import { InputError } from "../tensor/errors.ts";

/** A size: a whole number from 1. */
export const whole = () => z.int().positive();

/** Ids that end up in `config.json` and `generation_config.json`. */
export const specialTokens = z
  .strictObject({
    begin: z.int().nonnegative().optional(),
    /** Generation stops after any of these. */
    end: z.array(z.int().nonnegative()).optional(),
    padding: z.int().nonnegative().optional(),
  })
  .default({});
export type SpecialTokens = z.output<typeof specialTokens>;

/** Reads one of our configs or a Hugging Face `config.json` with its schema; says which value is wrong. */
export function parseConfig<S extends z.ZodType>(schema: S, value: unknown, where: string): z.output<S> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const lines = result.error.issues.map((i) => `${i.path.length ? `${i.path.join(".")}: ` : ""}${i.message}`);
  throw new InputError(`${where}: ${lines.join("; ")}.`, { cause: result.error });
}

/** Hugging Face's three names for special tokens, in a `config.json`. */
export const hubTokens = {
  bos_token_id: z.int().nonnegative().nullish(),
  eos_token_id: z.union([z.int().nonnegative(), z.array(z.int().nonnegative())]).nullish(),
  pad_token_id: z.int().nonnegative().nullish(),
};
export interface HubTokens {
  readonly bos_token_id?: number | null | undefined;
  readonly eos_token_id?: number | readonly number[] | null | undefined;
  readonly pad_token_id?: number | null | undefined;
}

export function tokensFromHub({ bos_token_id: bos, eos_token_id: eos, pad_token_id: pad }: HubTokens): SpecialTokens {
  return {
    ...(typeof bos === "number" ? { begin: bos } : {}),
    ...(typeof eos === "number" ? { end: [eos] } : eos ? { end: [...eos] } : {}),
    ...(typeof pad === "number" ? { padding: pad } : {}),
  };
}

export function tokensToHub({ begin, end, padding }: SpecialTokens): Required<HubTokens> {
  return {
    bos_token_id: begin ?? null,
    eos_token_id: end?.length === 1 ? end[0]! : (end ?? null),
    pad_token_id: padding ?? null,
  };
}
