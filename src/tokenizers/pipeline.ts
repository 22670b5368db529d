import { InputError } from "../tensor/errors.ts";
import { AddedTokenMatcher, recognisable, type Segment } from "./added-tokens.ts";
import { wellFormed } from "./bytes.ts";
import { type DecodeChain, decodeChainOf } from "./decode.ts";
import type { AnyProcessor, AnyTokenizerFile } from "./file.ts";
import { specialTokenName, type TokenizerConfig, writeTokenizerFolder } from "./folder.ts";
import { modelOf, type PieceModel } from "./models.ts";
import { type Normalize, normalizeBy } from "./normalize.ts";
import { type Cutter, cutterOf } from "./pieces.ts";
import type { AllowedSpecial, DecodeOptions, EncodeOptions, StreamOptions, Tokenizer, TokenStream } from "./types.ts";

/** Pieces longer than this are not remembered, nor more pieces than this. */
const CACHED_LENGTH = 64;
const CACHED_PIECES = 1 << 16;

/** A model that remembers what short pieces became. */
class Remembering implements PieceModel {
  private readonly model: PieceModel;
  private readonly cache = new Map<string, readonly number[]>();

  constructor(model: PieceModel) {
    this.model = model;
  }

  encode(piece: string, ids: number[]): void {
    const known = this.cache.get(piece);
    if (known !== undefined) {
      for (const id of known) ids.push(id);
      return;
    }
    const first = ids.length;
    this.model.encode(piece, ids);
    if (piece.length <= CACHED_LENGTH) {
      if (this.cache.size >= CACHED_PIECES) this.cache.clear();
      this.cache.set(piece, ids.slice(first));
    }
  }
}

/**
 * Any tokenizer that `tokenizer.json` describes, part by part: normalizer, pre-tokenizer, model (BPE with or without byte fallback, Unigram,
 * WordPiece, WordLevel), post-processor, decoder, truncation and padding. Byte-level BPE has `ByteLevelTokenizer`.
 */
export class PipelineTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly chatTemplate: string | undefined;

  private readonly file: AnyTokenizerFile;
  private readonly config: TokenizerConfig;
  private readonly strings: (string | undefined)[] = [];
  private readonly ids = new Map<string, number>();
  private readonly specialIds: ReadonlySet<number>;
  private readonly normalize: Normalize;
  private readonly cut: Cutter;
  private readonly model: Remembering;
  /** The model that no text makes special tokens of, whatever it spells; made when first needed. */
  private guarded: Remembering | undefined;
  private readonly decodeChain: DecodeChain;
  private readonly matchers = new Map<string, { raw: AddedTokenMatcher; normalized: AddedTokenMatcher }>();

  /** @throws InputError when the parts do not fit together */
  constructor(file: AnyTokenizerFile, config: TokenizerConfig = {}) {
    this.file = file;
    this.config = config;
    const entries: Iterable<[string, number]> =
      file.model.type === "Unigram"
        ? file.model.vocab.map(([piece], id): [string, number] => [piece, id])
        : file.model.vocab;
    for (const [token, id] of entries) {
      this.strings[id] = token;
      this.ids.set(token, id);
    }
    for (const { content, id } of file.added_tokens) {
      this.strings[id] = content;
      this.ids.set(content, id);
    }
    const special = file.added_tokens.filter((token) => token.special);
    this.specialTokens = new Map(special.map((token) => [token.content, token.id]));
    this.specialIds = new Set(this.specialTokens.values());
    this.vocabularySize = this.strings.length;
    this.normalize = normalizeBy(file.normalizer);
    this.cut = cutterOf(file.pre_tokenizer);
    this.model = new Remembering(modelOf(file.model));
    this.decodeChain = decodeChainOf(file.decoder);
    for (const id of process([], file.post_processor)) {
      if (this.strings[id] === undefined)
        throw new InputError(`post_processor: it adds the id ${id}, which is no token.`);
    }
    this.bosId = this.configuredId("bos_token");
    this.eosId = this.configuredId("eos_token");
    this.padId = this.configuredId("pad_token");
    this.chatTemplate = config.chat_template;
  }

  private configuredId(key: "bos_token" | "eos_token" | "pad_token"): number | undefined {
    const name = specialTokenName(this.config, key);
    if (name === undefined) return undefined;
    const id = this.tokenId(name);
    if (id === undefined) {
      throw new InputError(`tokenizer_config.json: ${key} is ${JSON.stringify(name)}, which is not in the vocabulary.`);
    }
    return id;
  }

  encode(text: string, options: EncodeOptions = {}): number[] {
    const [ids] = this.encodeBatch([text], options);
    return ids!;
  }

  /** Padding to the longest, where the file asks for it, is to the longest of these texts. */
  encodeBatch(texts: readonly string[], options: EncodeOptions = {}): number[][] {
    const all = texts.map((text) => this.encodeOne(text, options));
    const { padding } = this.file;
    if (padding === null) return all;
    let length =
      padding.strategy === "BatchLongest" ? Math.max(0, ...all.map((ids) => ids.length)) : padding.strategy.Fixed;
    const multiple = padding.pad_to_multiple_of ?? 1;
    length = Math.ceil(length / multiple) * multiple;
    return all.map((ids) => {
      const pad = new Array<number>(Math.max(0, length - ids.length)).fill(padding.pad_id);
      return padding.direction === "Left" ? [...pad, ...ids] : [...ids, ...pad];
    });
  }

  private encodeOne(text: string, { addSpecialTokens = true, allowedSpecial = "none" }: EncodeOptions): number[] {
    let ids: number[] = [];
    const model = this.modelFor(allowedSpecial);
    const { raw, normalized } = this.matchersFor(allowedSpecial);
    let first = true;
    const emit = (piece: string): void => {
      if (piece !== "") model.encode(piece, ids);
    };
    const each = (segments: readonly Segment[], onText: (text: string) => void): void => {
      for (const segment of segments) {
        if ("id" in segment) ids.push(segment.id);
        else onText(segment.text);
        first = false;
      }
    };
    each(raw.split(wellFormed(text)), (piece) => {
      const before = first;
      each(normalized.split(this.normalize(piece)), (part) => this.cut(part, emit, before && first));
    });
    const { truncation } = this.file;
    if (truncation !== null) {
      const added = addSpecialTokens ? process([], this.file.post_processor).length : 0;
      const most = Math.max(0, truncation.max_length - added);
      if (ids.length > most) ids = truncation.direction === "Left" ? ids.slice(ids.length - most) : ids.slice(0, most);
    }
    return addSpecialTokens ? process(ids, this.file.post_processor) : ids;
  }

  private modelFor(allowed: AllowedSpecial): PieceModel {
    if (allowed === "all" || this.specialIds.size === 0) return this.model;
    this.guarded ??= new Remembering(modelOf(this.file.model, this.specialIds));
    return this.guarded;
  }

  private matchersFor(allowed: AllowedSpecial): { raw: AddedTokenMatcher; normalized: AddedTokenMatcher } {
    const key = typeof allowed === "string" ? allowed : JSON.stringify([...allowed].sort());
    let found = this.matchers.get(key);
    if (found === undefined) {
      const tokens = recognisable(this.file.added_tokens, allowed);
      const those = (normalized: boolean) => tokens.filter((token) => token.normalized === normalized);
      found = {
        raw: new AddedTokenMatcher(those(false), (content) => content),
        normalized: new AddedTokenMatcher(those(true), this.normalize),
      };
      this.matchers.set(key, found);
    }
    return found;
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const tokens: string[] = [];
    for (const id of ids) {
      const token = this.strings[id];
      if (token === undefined) {
        throw new InputError(`decode: there is no token with id ${id}; ids go from 0 to ${this.vocabularySize - 1}.`);
      }
      if (!(options.skipSpecialTokens && this.specialIds.has(id))) tokens.push(token);
    }
    return this.decodeChain(tokens).join("");
  }

  stream(options: StreamOptions = {}): TokenStream {
    return decodeStream((ids) => this.decode(ids, options), options.after ?? []);
  }

  tokenId(token: string): number | undefined {
    return this.ids.get(token);
  }

  idToToken(id: number): string | undefined {
    return this.strings[id];
  }

  async save(folder: string): Promise<void> {
    await writeTokenizerFolder(folder, this.file, this.config);
  }
}

/**
 * A stream over any `decode` whose tokens depend on their neighbours only: the text of a window of ids, less what of it is known already.
 * Held back are a replacement character at the end (more bytes may complete it) and a piece that is nothing yet.
 */
export function decodeStream(decode: (ids: readonly number[]) => string, after: readonly number[]): TokenStream {
  let window = [...after.slice(-8)];
  let known = decode(window);
  /** Ids of the window whose text is out already. */
  let settled = window.length;
  return {
    push(id) {
      decode([id]); // an unknown id fails before it is in the window
      window.push(id);
      const text = decode(window);
      if (text.length <= known.length || text.endsWith("\ufffd")) return "";
      const fresh = text.slice(known.length);
      window = window.slice(settled);
      settled = window.length;
      known = decode(window);
      return fresh;
    },
    end() {
      const text = decode(window);
      const rest = text.slice(known.length);
      known = text;
      return rest;
    },
  };
}

/** What the post-processor makes of one sequence. */
function process(ids: number[], part: AnyProcessor | null): number[] {
  if (part === null) return ids;
  switch (part.type) {
    case "ByteLevel": // only moves offsets
      return ids;
    case "Sequence":
      return part.processors.reduce<number[]>(process, ids);
    case "BertProcessing":
    case "RobertaProcessing":
      return [part.cls[1], ...ids, part.sep[1]];
    case "TemplateProcessing":
      return part.single.flatMap((item) => {
        if ("Sequence" in item) return item.Sequence.id === "A" ? ids : [];
        const token = part.special_tokens[item.SpecialToken.id];
        if (token === undefined) {
          throw new InputError(
            `post_processor: the template uses ${item.SpecialToken.id}, which special_tokens does not define.`,
          );
        }
        return token.ids;
      });
  }
}
