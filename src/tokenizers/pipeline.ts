import { decodeUtf8, wellFormed } from "./bytes.ts";
import { type DecodeStep, decoderOf, type MakeStep } from "./decode.ts";
import { FileTokenizer, NO_FRAME } from "./file-tokenizer.ts";
import { type TokenizerConfig, writeTokenizerFolder } from "./folder.ts";
import type { PieceModel } from "./models.ts";
import { encodePlans } from "./native-batch.ts";
import { NativePieces } from "./native-pieces.ts";
import { type Cutter, cutterOf } from "./pieces.ts";
import type { TokenizerFile } from "./schema.ts";
import type { AllowedSpecial, DecodeOptions, EncodeManyOptions, StreamOptions, TokenStream } from "./types.ts";

/** Texts shorter than this are not worth a call into the native code. */
const NATIVE_LENGTH = 64;

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
export class PipelineTokenizer extends FileTokenizer {
  private readonly cut: Cutter;
  private readonly decoder: MakeStep;
  private readonly remembering = new Map<PieceModel, Remembering>();
  /** Native encoders: all special tokens allowed or not, and whether texts are searched after the normalizer. Null where there is none. */
  private readonly natives = new Map<string, NativePieces | null>();

  /** @throws InputError when the parts do not fit together */
  constructor(file: TokenizerFile, config: TokenizerConfig = {}) {
    super(file, config);
    this.cut = cutterOf(file.pre_tokenizer);
    this.decoder = decoderOf(file.decoder);
    this.modelFor("all"); // what is wrong with the model is said now
  }

  protected encodeText(text: string, allowed: AllowedSpecial): number[] {
    const native = text.length < NATIVE_LENGTH ? undefined : this.nativeEncoder(allowed);
    const ids: number[] = [];
    for (const item of this.planOf(text, allowed, native)) {
      if (typeof item === "number") ids.push(item);
      else if (native !== undefined) for (const id of native.encode(item)) ids.push(id);
    }
    return ids;
  }

  /** Ids, and the stretches of text that are left for the native encoder. */
  private planOf(text: string, allowed: AllowedSpecial, native: NativePieces | undefined): (number | string)[] {
    const out: (number | string)[] = [];
    const model = this.remembered(allowed);
    const { raw, normalized } = this.matchersFor(allowed);
    const emit = (piece: string): void => {
      if (piece !== "") model.encode(piece, out as number[]);
    };
    const early = native?.normalizes && normalized.empty;
    const late = native !== undefined && !native.normalizes;
    let first = this.keepsStart(text);
    for (const segment of raw.split(wellFormed(text))) {
      if ("id" in segment) out.push(segment.id);
      else {
        const whole = early ? native?.prepare(segment.text, first) : undefined;
        if (whole !== undefined) out.push(whole);
        else {
          for (const part of normalized.split(this.normalize(segment.text))) {
            if ("id" in part) out.push(part.id);
            else {
              const prepared = late ? native.prepare(part.text, first) : undefined;
              if (prepared !== undefined) out.push(prepared);
              else this.cut(part.text, emit, first);
            }
            first = false;
          }
        }
      }
      first = false;
    }
    return out;
  }

  /** The native encoder, where the kernels are built and know this file's parts; it gives the same ids. */
  private nativeEncoder(allowed: AllowedSpecial): NativePieces | undefined {
    const all = allowed === "all";
    const whole = this.matchersFor(allowed).normalized.empty;
    const key = `${all} ${whole}`;
    let found = this.natives.get(key);
    if (found === undefined) {
      found = NativePieces.ofFile(this.file, all ? new Set() : this.specialIds, whole) ?? null;
      this.natives.set(key, found);
    }
    return found ?? undefined;
  }

  async encodeMany(
    texts: readonly (string | Uint8Array)[],
    options: EncodeManyOptions = {},
  ): Promise<Uint32Array<ArrayBuffer>[]> {
    const { addSpecialTokens = true, allowedSpecial = "none", threads = 0 } = options;
    const strings = texts.map((text) => (typeof text === "string" ? text : decodeUtf8(text)));
    const native = this.nativeEncoder(allowedSpecial);
    if (native === undefined || this.file.truncation !== null || this.file.padding !== null)
      return strings.map((text) => Uint32Array.from(this.encode(text, options)));
    const plans = strings.map((text) => this.planOf(text, allowedSpecial, native));
    const { before, after } = addSpecialTokens ? this.frame : NO_FRAME;
    return encodePlans(plans, native.batch(threads), before, after);
  }

  private remembered(allowed: AllowedSpecial): PieceModel {
    const model = this.modelFor(allowed);
    let found = this.remembering.get(model);
    if (found === undefined) {
      found = new Remembering(model);
      this.remembering.set(model, found);
    }
    return found;
  }

  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    const step = this.decoder();
    let text = "";
    for (const id of ids) text += this.pushed(step, id, options);
    return text + step.end().join("");
  }

  private pushed(step: DecodeStep, id: number, { skipSpecialTokens = false }: DecodeOptions): string {
    const token = this.spelled(id);
    return skipSpecialTokens && this.specialIds.has(id) ? "" : step.push(token).join("");
  }

  stream(options: StreamOptions = {}): TokenStream {
    const before = options.after?.slice(-8) ?? [];
    const step = this.decoder();
    /** How much of what comes out is text of the ids before. */
    let old = before.length === 0 ? 0 : this.decode(before, options).length;
    const fresh = (text: string): string => {
      const out = text.slice(old);
      old = Math.max(0, old - text.length);
      return out;
    };
    for (const id of before) fresh(this.pushed(step, id, options));
    return {
      push: (id) => fresh(this.pushed(step, id, options)),
      end: () => fresh(step.end().join("")),
    };
  }

  async save(folder: string): Promise<void> {
    await writeTokenizerFolder(folder, this.file, this.config);
  }
}
