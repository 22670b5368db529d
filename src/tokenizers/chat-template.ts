import { InputError } from "../tensor/errors.ts";
import type { TokenizerConfig } from "./folder.ts";
import { Template } from "./jinja.ts";
import type { Tokenizer } from "./types.ts";

/** One turn. `name` is who speaks in the role ("JULIET" as the assistant); templates that know no names ignore it. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string;
  /** Whatever else a template reads (`tool_calls`, `tool_call_id`, ...). */
  readonly [key: string]: unknown;
}

export interface ChatTemplateOptions {
  /** End with what opens the assistant's turn. Default false. */
  readonly addGenerationPrompt?: boolean;
  /** Who speaks in the turn that the generation prompt opens; the template sees it as `assistant_name`. */
  readonly assistantName?: string;
  /** JSON schemas of functions the model may call, as OpenAI writes them. */
  readonly tools?: readonly Readonly<Record<string, unknown>>[];
  readonly bosToken?: string;
  readonly eosToken?: string;
  /** More variables for the template. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** Ids of a conversation, and for each id whether it is part of an assistant's reply (1) or not (0). */
export interface EncodedChat {
  readonly ids: number[];
  readonly assistantMask: number[];
}

/** Special tokens of our own chat models, in the order of their ids. */
export const CHAT_SPECIAL_TOKENS = [
  "<|bos|>",
  "<|end|>",
  "<|pad|>",
  "<|system|>",
  "<|user|>",
  "<|assistant|>",
] as const;

/**
 * The template of our own chat models. A conversation is `<|bos|>` and its turns; a turn is its role's token, the speaker's name (or
 * nothing), a line feed, the text, `<|end|>`. The reply and its `<|end|>` are what the model learns to write; the name is given.
 */
export const DEFAULT_CHAT_TEMPLATE = `{{- bos_token }}
{%- for message in messages %}
    {%- if message['role'] not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('roles are system, user and assistant, not ' + message['role']) }}
    {%- endif %}
    {{- '<|' + message['role'] + '|>' + ((message['name'] or '') | replace('\\n', ' ')) + '\\n' }}
    {%- if message['role'] == 'assistant' %}
        {%- generation %}{{- message['content'] + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' + ((assistant_name or '') | replace('\\n', ' ')) + '\\n' }}
{%- endif %}`;

/** `tokenizer_config.json` of our own chat models. */
export const CHAT_TOKENIZER_CONFIG: TokenizerConfig = {
  bos_token: "<|bos|>",
  eos_token: "<|end|>",
  pad_token: "<|pad|>",
  chat_template: DEFAULT_CHAT_TEMPLATE,
};

// Noncharacters: Unicode reserves them for a program's own use, so they mean nothing in anybody's text.
const PROTECT = "\ufdd0"; // put inside a special token that a person's text spells out
const OPEN = "\ufdd1"; // around what {% generation %} holds
const CLOSE = "\ufdd2";
const MARKS = /[\ufdd0-\ufdd3]/g; // the fourth is the mark of a number in jinja.ts

/** A stretch of the rendered text, in UTF-16 units. */
interface Span {
  readonly start: number;
  readonly end: number;
}

/**
 * Renders a conversation with a Jinja chat template, as `apply_chat_template` of transformers does.
 * @throws InputError when the template is malformed or refuses the messages
 */
export function applyChatTemplate(
  template: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions = {},
): string {
  return render(template, withoutMarks(messages), withoutMarks(options)).text;
}

/**
 * Ids of a conversation and the mask of the assistants' replies, for training on the replies only.
 *
 * The replies are what stands in the template's `{% generation %}` blocks; in a template without them, what each assistant message
 * adds to the conversation before it, up to its last special token (the white space that follows is the template's, not the model's).
 *
 * Special tokens count where the template writes them. In the messages they are ordinary characters, so that nobody can end a turn
 * or speak for another role by writing `<|end|>`.
 *
 * @throws InputError when the tokenizer has no template, or the replies cannot be found (a template whose beginning changes
 *   with later messages needs `{% generation %}` blocks)
 */
export function encodeChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions & { readonly template?: string } = {},
): EncodedChat {
  const { template: given, ...rest } = options;
  const template = given ?? tokenizer.chatTemplate;
  if (template === undefined) {
    throw new InputError("This tokenizer has no chat template. Give one, or use a model that was tuned for chat.");
  }
  const bosToken = tokenizer.bosId === undefined ? undefined : tokenizer.idToToken(tokenizer.bosId);
  const eosToken = tokenizer.eosId === undefined ? undefined : tokenizer.idToToken(tokenizer.eosId);
  const defaults = { ...(bosToken === undefined ? {} : { bosToken }), ...(eosToken === undefined ? {} : { eosToken }) };
  const special = specialPattern(tokenizer);
  const protect = (text: string): string =>
    text.replace(special, (token) => token.slice(0, 1) + PROTECT + token.slice(1));
  const safeMessages = mapStrings(withoutMarks(messages), protect);
  const { bosToken: bos, eosToken: eos, ...others } = withoutMarks(rest);
  const safeOptions = {
    ...defaults,
    ...(bos === undefined ? {} : { bosToken: bos }),
    ...(eos === undefined ? {} : { eosToken: eos }),
    ...mapStrings(others, protect),
  };

  const rendered = render(template, safeMessages, safeOptions);
  const spans = hasGenerationBlocks(template)
    ? rendered.spans
    : repliesByPrefix(template, safeMessages, safeOptions, rendered.text, special);
  return encodeSpans(tokenizer, rendered.text, spans, special);
}

const hasGenerationBlocks = (template: string): boolean => /\{%[-+]?\s*generation\s*[-+]?%\}/.test(template);

/** Compiled templates; a program uses few. */
const compiled = new Map<string, Template>();

function compile(source: string): Template {
  let found = compiled.get(source);
  if (found === undefined) {
    // The generation tags become calls of a macro that marks what they hold: also statements, so that white space around them is
    // treated the same. The macro's own line ends with a line feed, which the block's end swallows.
    const marking = `{% macro __generation() %}${OPEN}{{ caller() }}${CLOSE}{% endmacro %}\n`;
    const body = source
      .replace(/\{%([-+]?)\s*generation\s*([-+]?)%\}/g, "{%$1 call __generation() $2%}")
      .replace(/\{%([-+]?)\s*endgeneration\s*([-+]?)%\}/g, "{%$1 endcall $2%}");
    try {
      found = new Template(hasGenerationBlocks(source) ? marking + body : source);
    } catch (error) {
      throw new InputError(`chat template: ${(error as Error).message}`, { cause: error });
    }
    if (compiled.size >= 32) compiled.clear();
    compiled.set(source, found);
  }
  return found;
}

function render(
  source: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
): { text: string; spans: Span[] } {
  let marked: string;
  try {
    marked = compile(source).render({
      messages,
      tools: options.tools ?? null,
      documents: null,
      add_generation_prompt: options.addGenerationPrompt ?? false,
      assistant_name: options.assistantName ?? null,
      ...(options.bosToken === undefined ? {} : { bos_token: options.bosToken }),
      ...(options.eosToken === undefined ? {} : { eos_token: options.eosToken }),
      ...options.variables,
    });
  } catch (error) {
    if (error instanceof InputError) throw error;
    throw new InputError(`chat template: ${(error as Error).message}`, { cause: error });
  }
  const spans: Span[] = [];
  let text = "";
  let start = 0;
  for (const part of marked.split(/([\ufdd1\ufdd2])/)) {
    if (part === OPEN) start = text.length;
    else if (part === CLOSE) spans.push({ start, end: text.length });
    else text += part;
  }
  return { text, spans };
}

/** The replies as the difference that each assistant message makes to the text before it. */
function repliesByPrefix(
  template: string,
  messages: readonly ChatMessage[],
  options: ChatTemplateOptions,
  text: string,
  special: RegExp,
): Span[] {
  const { addGenerationPrompt: _, ...rest } = options;
  return messages.flatMap((message, i) => {
    if (message.role !== "assistant") return [];
    const named = message.name === undefined ? rest : { ...rest, assistantName: message.name };
    const before = render(template, messages.slice(0, i), { ...named, addGenerationPrompt: true }).text;
    const upTo = render(template, messages.slice(0, i + 1), rest).text;
    if (!upTo.startsWith(before) || !text.startsWith(upTo)) {
      throw new InputError(
        `chat template: the text of message ${i} cannot be told apart, because what comes before it changes with later messages. ` +
          "Put {% generation %} ... {% endgeneration %} around the assistant's text in the template.",
      );
    }
    const reply = upTo.slice(before.length);
    const last = [...reply.matchAll(special)].at(-1);
    const end = last === undefined ? -1 : last.index + last[0].length;
    return [
      { start: before.length, end: end !== -1 && reply.slice(end).trim() === "" ? before.length + end : upTo.length },
    ];
  });
}

const patterns = new WeakMap<Tokenizer, RegExp>();

/** Special tokens, longest first. */
function specialPattern(tokenizer: Tokenizer): RegExp {
  const known = patterns.get(tokenizer);
  if (known !== undefined) return known;
  const names = [...tokenizer.specialTokens.keys()].sort((a, b) => b.length - a.length);
  const alternatives = names.map((name) => name.replace(/[\^$\\.*+?()[\]{}|/]/g, "\\$&"));
  const pattern = new RegExp(alternatives.length === 0 ? "(?!)" : alternatives.join("|"), "gu");
  patterns.set(tokenizer, pattern);
  return pattern;
}

/** Encodes the rendered text; an id counts as reply if it holds a character of a span. */
function encodeSpans(tokenizer: Tokenizer, text: string, spans: readonly Span[], special: RegExp): EncodedChat {
  const inReply = new Uint8Array(text.length);
  for (const { start, end } of spans) inReply.fill(1, start, end);
  const ids: number[] = [];
  const assistantMask: number[] = [];
  // With a protected token in the text, the template's tokens are found here and all other text is encoded as plain text.
  const parts = text.includes(PROTECT) ? splitOff(text, special) : [{ text, at: 0, allowed: "all" as const }];
  for (const part of parts) {
    const marked = inReply.subarray(part.at, part.at + part.text.length);
    const kept = part.text.includes(PROTECT) ? marked.filter((_, i) => part.text[i] !== PROTECT) : marked;
    const clean = part.text.replaceAll(PROTECT, "");
    const encode = (piece: string): number[] =>
      tokenizer.encode(piece, { addSpecialTokens: false, allowedSpecial: part.allowed });
    const whole = encode(clean);
    const mask = alignMask(tokenizer, whole, clean, kept);
    if (mask !== undefined) {
      for (const id of whole) ids.push(id);
      for (const bit of mask) assistantMask.push(bit);
      continue;
    }
    // The tokenizer changes the text (normalisation), so positions do not line up: encode replies and the rest on their own.
    for (let start = 0; start < clean.length; ) {
      let end = start + 1;
      while (end < clean.length && kept[end] === kept[start]) end++;
      for (const id of encode(clean.slice(start, end))) {
        ids.push(id);
        assistantMask.push(kept[start]!);
      }
      start = end;
    }
  }
  return { ids, assistantMask };
}

function splitOff(text: string, special: RegExp): { text: string; at: number; allowed: "all" | "none" }[] {
  const parts: { text: string; at: number; allowed: "all" | "none" }[] = [];
  let at = 0;
  for (const found of text.matchAll(special)) {
    parts.push({ text: text.slice(at, found.index), at, allowed: "none" });
    parts.push({ text: found[0], at: found.index, allowed: "all" });
    at = found.index + found[0].length;
  }
  parts.push({ text: text.slice(at), at, allowed: "none" });
  return parts.filter((part) => part.text !== "");
}

/** For each id, whether any character it holds is marked; undefined where the ids do not spell `text`. */
function alignMask(
  tokenizer: Tokenizer,
  ids: readonly number[],
  text: string,
  marked: Uint8Array,
): number[] | undefined {
  const stream = tokenizer.stream();
  const mask: number[] = [];
  let at = 0;
  for (const id of ids) {
    const piece = stream.push(id);
    if (!text.startsWith(piece, at)) return undefined;
    // An id that only begins a character holds that character.
    const end = Math.max(at + piece.length, at + 1);
    mask.push(marked.subarray(at, end).includes(1) ? 1 : 0);
    at += piece.length;
  }
  return at === text.length && stream.end() === "" ? mask : undefined;
}

function mapStrings<T>(value: T, change: (text: string) => string): T {
  if (typeof value === "string") return change(value) as T;
  if (Array.isArray(value)) return value.map((item: unknown) => mapStrings(item, change)) as T;
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapStrings(item, change)])) as T;
  }
  return value;
}

const withoutMarks = <T>(value: T): T => mapStrings(value, (text) => text.replace(MARKS, ""));
