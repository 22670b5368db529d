import { InputError } from "../tensor/errors.ts";
import { AddedTokenMatcher, recognisable } from "./added-tokens.ts";
import { Aligned } from "./aligned.ts";
import { wellFormed } from "./bytes.ts";
import {
  addedBy,
  type Encoding,
  type EncodingInput,
  encodingsOf,
  frameOf,
  Gatherer,
  paddedLength,
  truncatedIds,
} from "./encoding.ts";
import { specialTokenName, type TokenizerConfig } from "./folder.ts";
import { modelOf, type PieceModel } from "./models.ts";
import { type AlignedNormalize, alignedNormalizeBy, type Normalize, normalizeBy } from "./normalize.ts";
import { type AlignedCutter, alignedCutterOf } from "./pieces.ts";
import type { Dialect } from "./regex.ts";
import type { TokenizerFile } from "./schema.ts";
import type {
  AllowedSpecial,
  DecodeOptions,
  EncodeOptions,
  EncodingOptions,
  StreamOptions,
  Tokenizer,
  TokenStream,
} from "./types.ts";

/** Nothing around a text. */
export const NO_FRAME = { before: [], after: [] } as const;

export interface Matchers {
  /** Of tokens that are looked for before the normalizer, and after. */
  readonly raw: AddedTokenMatcher;
  readonly normalized: AddedTokenMatcher;
}

/**
 * What every tokenizer made of a `tokenizer.json` has in common: names and ids, added tokens, the post-processor, truncation, padding, and
 * encodings with offsets, which go part by part through texts that remember where their characters come from.
 */
export abstract class FileTokenizer implements Tokenizer {
  readonly vocabularySize: number;
  readonly specialTokens: ReadonlyMap<string, number>;
  readonly bosId: number | undefined;
  readonly eosId: number | undefined;
  readonly padId: number | undefined;
  readonly chatTemplate: string | undefined;

  protected readonly file: TokenizerFile;
  protected readonly config: TokenizerConfig;
  /** id -> string; added tokens win over the model's. */
  protected readonly strings: (string | undefined)[] = [];
  /** id -> what decoding makes of an added token: a text that the normalizer has seen, if its content is to be normalised. */
  private readonly spellings: (string | undefined)[] = [];
  protected readonly specialIds: ReadonlySet<number>;
  protected readonly normalize: Normalize;
  private added: number | undefined;
  /** The ids around one text. */
  protected readonly frame: { readonly before: readonly number[]; readonly after: readonly number[] };
  private readonly dialect: Dialect;
  private readonly ids = new Map<string, number>();
  private readonly matchers = new Map<string, Matchers>();
  private aligned: { readonly normalize: AlignedNormalize; readonly cut: AlignedCutter } | undefined;
  private readonly models = new Map<boolean, PieceModel>();

  /** @throws InputError when the parts do not fit together */
  constructor(file: TokenizerFile, config: TokenizerConfig, dialect: Dialect = "oniguruma") {
    this.file = file;
    this.config = config;
    this.dialect = dialect;
    const { model } = file;
    const entries: Iterable<[string, number]> =
      model.type === "Unigram" ? model.vocab.map(([piece], id): [string, number] => [piece, id]) : model.vocab;
    for (const [token, id] of entries) {
      if (this.strings[id] !== undefined) {
        throw new InputError(
          `vocab: ${JSON.stringify(token)} and ${JSON.stringify(this.strings[id])} both have the id ${id}.`,
        );
      }
      this.strings[id] = token;
      this.ids.set(token, id);
    }
    this.add(file.added_tokens, dialect === "oniguruma" ? this.ids.size : undefined);
    const special = file.added_tokens.filter((token) => token.special);
    this.specialTokens = new Map(special.map((token) => [token.content, token.id]));
    this.specialIds = new Set(this.specialTokens.values());
    this.vocabularySize = this.strings.length;
    this.normalize = normalizeBy(file.normalizer);
    for (const { content, id, normalized } of file.added_tokens) {
      const spelled = normalized ? this.normalize(content) : content;
      if (spelled === "") {
        throw new InputError(
          `added_tokens: the normalizer makes nothing of ${JSON.stringify(content)}, which no text would be found to hold. ` +
            'It needs "normalized": false.',
        );
      }
      const same = file.added_tokens.find((other) => {
        return other.id < id && normalized && other.normalized && this.spellings[other.id] === spelled;
      });
      if (same !== undefined) {
        // Which of them `tokenizers` finds is not the same from run to run.
        throw new InputError(
          `added_tokens: the normalizer makes the same of ${JSON.stringify(same.content)} and ${JSON.stringify(content)}, ` +
            'so that no text says which. One of them needs "normalized": false.',
        );
      }
      this.spellings[id] = spelled;
    }
    this.frame = frameOf(file.post_processor);
    for (const id of [...this.frame.before, ...this.frame.after]) {
      if (this.strings[id] === undefined)
        throw new InputError(`post_processor: it adds the id ${id}, which is no token.`);
    }
    this.bosId = this.configuredId("bos_token");
    this.eosId = this.configuredId("eos_token");
    this.padId = this.configuredId("pad_token");
    this.chatTemplate = config.chat_template;
  }

  /** @param size how many tokens the model has, where a token's id must be what `tokenizers` would number it */
  private add(tokens: TokenizerFile["added_tokens"], size: number | undefined): void {
    // `tokenizers` numbers added tokens itself, whatever the file says. Where the file says otherwise, one of the two is wrong.
    let following = size;
    for (const { content, id } of tokens) {
      const expected = this.ids.get(content) ?? following ?? id;
      if (id !== expected) {
        throw new InputError(
          `added_tokens: ${JSON.stringify(content)} has the id ${id}, where ${
            this.ids.has(content) ? `the vocabulary says ${expected}` : `the next free one is ${expected}`
          }.`,
        );
      }
      const taken = this.strings[id];
      if (taken !== undefined && taken !== content) {
        throw new InputError(
          `added_tokens: ${JSON.stringify(content)} has the id ${id}, which ${JSON.stringify(taken)} has already.`,
        );
      }
      if (following !== undefined && id === following) following++;
      this.strings[id] = content;
      this.ids.set(content, id);
    }
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

  /** The ids of a text without what the post-processor adds. */
  protected abstract encodeText(text: string, allowed: AllowedSpecial): number[];
  abstract decode(ids: readonly number[], options?: DecodeOptions): string;
  abstract stream(options?: StreamOptions): TokenStream;
  abstract save(folder: string): Promise<void>;

  /** @throws InputError when the file's truncation cannot be done */
  encode(text: string, options: EncodeOptions = {}): number[] {
    const [ids] = this.encodeBatch([text], options);
    return ids!;
  }

  /** Padding to the longest, where the file asks for it, is to the longest of these texts. */
  encodeBatch(
    texts: readonly string[],
    { addSpecialTokens = true, allowedSpecial = "none" }: EncodeOptions = {},
  ): number[][] {
    const all = texts.map((text) => this.framed(this.encodeText(text, allowedSpecial), addSpecialTokens));
    const { padding } = this.file;
    if (padding === null) return all;
    const length = paddedLength(
      all.map((ids) => ids.length),
      padding,
    );
    return all.map((ids) => {
      const pad = new Array<number>(Math.max(0, length - ids.length)).fill(padding.pad_id);
      return padding.direction === "Left" ? [...pad, ...ids] : [...ids, ...pad];
    });
  }

  /** Cut as the file says, between what the post-processor adds. */
  private framed(ids: number[], addSpecialTokens: boolean): number[] {
    const { before, after } = addSpecialTokens ? this.frame : NO_FRAME;
    const { truncation } = this.file;
    const kept = truncation === null ? ids : truncatedIds(ids, truncation, addSpecialTokens ? this.addedToOne() : 0);
    return before.length + after.length === 0 ? kept : [...before, ...kept, ...after];
  }

  /** @throws InputError when the file's truncation cannot be done */
  encoding(text: string, second?: string, options: EncodingOptions = {}): Encoding {
    const [encoding] = this.encodings([second === undefined ? text : [text, second]], options);
    return encoding!;
  }

  /** The encodings of texts or pairs; padding to the longest, where asked for, is to the longest of these. */
  encodings(inputs: readonly EncodingInput[], options: EncodingOptions = {}): Encoding[] {
    const { allowedSpecial = "none", offsets } = options;
    return encodingsOf(inputs, options, this.file, (text, which) =>
      this.sequence(text, which, allowedSpecial, offsets),
    );
  }

  /** How many ids the post-processor adds to one text. */
  private addedToOne(): number {
    this.added ??= addedBy(this.file.post_processor, false);
    return this.added;
  }

  private alignedParts() {
    this.aligned ??= {
      normalize: alignedNormalizeBy(this.file.normalizer),
      cut: alignedCutterOf(this.file.pre_tokenizer, this.dialect),
    };
    return this.aligned;
  }

  /** Whether the normalizer leaves the first character of a text, as far as a step asks: one that puts something before the first does. */
  protected keepsStart(text: string): boolean {
    if (this.file.normalizer === null || !asksForFirst(this.file.pre_tokenizer)) return true;
    return (
      this.alignedParts()
        .normalize(Aligned.of(wellFormed(text), 0))
        .original(0, 1)[0] === 0
    );
  }

  private sequence(given: string, which: 0 | 1, allowed: AllowedSpecial, unit: EncodingOptions["offsets"]): Encoding {
    const text = wellFormed(given);
    const { raw, normalized } = this.matchersFor(allowed);
    const { normalize, cut } = this.alignedParts();
    const model = this.modelFor(allowed);
    const gatherer = new Gatherer(text, which, unit);
    let word = 0;
    /** Unigram's unknown token is named by the text it stands for, as an added token is by what was found. */
    const unknown = this.file.model.type === "Unigram" ? this.file.model.unk_id : null;
    for (const segment of raw.split(text)) {
      if ("id" in segment) {
        const { id, start, end } = segment;
        gatherer.add(id, text.slice(start, end), start, end, word);
        word++;
        continue;
      }
      const all = normalize(Aligned.of(segment.text, segment.start));
      for (const part of normalized.split(all.text)) {
        if ("id" in part) {
          const found = all.text.slice(part.start, part.end);
          gatherer.add(part.id, found, ...all.original(part.start, part.end), word);
          word++;
        } else {
          for (const piece of cut(all.slice(part.start, part.start + part.text.length))) {
            const ids: number[] = [];
            const spans: number[] = [];
            model.encode(piece.text, ids, spans);
            ids.forEach((id, i) => {
              const [start, end] = [spans[2 * i]!, spans[2 * i + 1]!];
              const token = id === unknown ? piece.text.slice(start, end) : this.strings[id]!;
              gatherer.add(id, token, ...piece.original(start, end), word);
            });
            word++;
          }
        }
      }
    }
    return gatherer.encoding;
  }

  /** Ranks of the merges, where they are not their order. */
  protected get mergeRanks(): readonly number[] | undefined {
    return undefined;
  }

  /** The file's model; unless all special tokens are allowed, one that no text makes them of, whatever it spells. */
  protected modelFor(allowed: AllowedSpecial): PieceModel {
    const guarded = allowed !== "all" && this.specialIds.size > 0;
    let model = this.models.get(guarded);
    if (model === undefined) {
      model = modelOf(this.file.model, guarded ? this.specialIds : undefined, this.mergeRanks);
      this.models.set(guarded, model);
    }
    return model;
  }

  protected matchersFor(allowed: AllowedSpecial): Matchers {
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

  tokenId(token: string): number | undefined {
    return this.ids.get(token);
  }

  idToToken(id: number): string | undefined {
    return this.strings[id];
  }

  /** @throws InputError for an id outside the vocabulary */
  protected spelled(id: number): string {
    return this.spellings[id] ?? this.stringOf(id);
  }

  /** @throws InputError for an id outside the vocabulary */
  protected stringOf(id: number): string {
    const token = this.strings[id];
    if (token !== undefined) return token;
    throw new InputError(`decode: there is no token with id ${id}; ids go from 0 to ${this.vocabularySize - 1}.`);
  }
}

const asksForFirst = (part: TokenizerFile["pre_tokenizer"]): boolean =>
  part?.type === "Sequence"
    ? part.pretokenizers.some(asksForFirst)
    : part?.type === "Metaspace" && part.prepend_scheme === "first";
