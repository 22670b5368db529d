import { InputError } from "../tensor/errors.ts";
import { specialTokenName, type TokenizerConfig } from "./folder.ts";
import { PipelineTokenizer } from "./pipeline.ts";
import { checkTokenizerFile } from "./schema.ts";

/**
 * BERT's tokenizer (Devlin et al. 2019) from `vocab.txt`, one token a line, the line's number its id. `tokenizer_config.json` may say
 * `do_lower_case` (default true), `strip_accents` and `tokenize_chinese_chars`.
 * @param place file name for messages
 * @throws InputError when a token that BERT needs is missing
 */
export function bertTokenizer(text: string, place: string, config: TokenizerConfig = {}): PipelineTokenizer {
  const lines = text.split("\n").map((line) => line.replace(/\r$/, ""));
  if (lines.at(-1) === "") lines.pop();
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>;
  // Of two equal lines the later counts, as in Hugging Face's readers.
  lines.forEach((line, id) => {
    vocab[line] = id;
  });
  const name = (key: "unk_token" | "pad_token", usual: string): string => specialTokenName(config, key) ?? usual;
  const unknown = name("unk_token", "[UNK]");
  const special = [unknown, "[SEP]", name("pad_token", "[PAD]"), "[CLS]", "[MASK]"];
  const idOf = (token: string): number => {
    const id = vocab[token];
    if (id === undefined)
      throw new InputError(`${place}: ${token} is not in it. Is it the vocabulary of a BERT model?`);
    return id;
  };
  const flag = (key: string, usual: boolean | null): unknown => config[key] ?? usual;
  const file = checkTokenizerFile(
    {
      added_tokens: special
        .map((content) => ({ id: idOf(content), content, normalized: false, special: true }))
        .sort((a, b) => a.id - b.id),
      normalizer: {
        type: "BertNormalizer",
        clean_text: true,
        handle_chinese_chars: flag("tokenize_chinese_chars", true),
        strip_accents: flag("strip_accents", null),
        lowercase: flag("do_lower_case", true),
      },
      pre_tokenizer: { type: "BertPreTokenizer" },
      post_processor: {
        type: "TemplateProcessing",
        single: [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0)],
        pair: [token("[CLS]", 0), sequence("A", 0), token("[SEP]", 0), sequence("B", 1), token("[SEP]", 1)],
        special_tokens: Object.fromEntries(["[CLS]", "[SEP]"].map((id) => [id, { id, ids: [idOf(id)], tokens: [id] }])),
      },
      decoder: { type: "WordPiece", prefix: "##", cleanup: true },
      model: {
        type: "WordPiece",
        unk_token: unknown,
        continuing_subword_prefix: "##",
        max_input_chars_per_word: 100,
        vocab,
      },
    },
    place,
  );
  return new PipelineTokenizer(file, { pad_token: "[PAD]", unk_token: unknown, ...config });
}

const token = (id: string, type_id: number) => ({ SpecialToken: { id, type_id } });
const sequence = (id: "A" | "B", type_id: number) => ({ Sequence: { id, type_id } });
