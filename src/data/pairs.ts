import { InputError } from "../tensor/errors.ts";
import {
  type ContinuationOptions,
  type Conversation,
  continuationPairs,
  holdsDialogue,
  parsePlay,
  type ReplyOptions,
  replyPairs,
  setAsideForJudge,
  splitPlays,
} from "./dialogue.ts";
import type { SourceText } from "./text.ts";

export type PairKind = "dialogue" | "continuation";

export interface TextPairs {
  readonly kind: PairKind;
  /** For the policy and its reward model. */
  readonly own: readonly Conversation[];
  /** Only for the judge: made of other plays, documents or paragraphs. */
  readonly judge: readonly Conversation[];
}

export interface PairOptions extends ReplyOptions, ContinuationOptions {
  /** The part of the text that only the judge learns from. Default 0.25. */
  readonly judgeFraction?: number;
}

/**
 * Pairs of a text, and others of the same kind for a judge that the policy never saw: whole plays for dialogue, whole documents (or
 * the end of a single one) for continuations.
 * @param kind "auto": dialogue if most of the text (by documents' length) is a play, else continuation
 * @throws InputError when the text yields no pairs of this kind
 */
export function pairsOf(
  documents: readonly SourceText[],
  kind: PairKind | "auto",
  options: PairOptions = {},
): TextPairs {
  const { judgeFraction = 0.25 } = options;
  const length = (parts: readonly SourceText[]): number => parts.reduce((sum, { text }) => sum + text.length, 0);
  const plays = documents.filter(({ text }) => holdsDialogue(text));
  const chosen = kind === "auto" ? (length(plays) * 2 > length(documents) ? "dialogue" : "continuation") : kind;

  let own: Conversation[];
  let judge: Conversation[];
  if (chosen === "dialogue") {
    const parts = (kind === "auto" ? plays : documents).flatMap(({ text }) => splitPlays(parsePlay(text)));
    const split = setAsideForJudge(parts, judgeFraction);
    own = replyPairs(split.own, options);
    judge = replyPairs(split.judge, options);
  } else {
    const parts = documents.map(({ text }) => continuationPairs(text, options)).filter((part) => part.length > 0);
    const split = setAsideForJudge(parts, judgeFraction);
    own = [...split.own];
    judge = [...split.judge];
  }
  if (own.length === 0 || judge.length === 0) {
    throw new InputError(
      chosen === "dialogue"
        ? 'The text holds too little dialogue: speeches are written as "NAME:" on a line, the words below, a blank line. Add text, or use continuation pairs.'
        : "The text holds too few paragraphs to make pairs of. Add text.",
    );
  }
  return { kind: chosen, own, judge };
}
