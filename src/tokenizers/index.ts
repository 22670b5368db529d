export type { BpeModel, BpeTrainingOptions } from "./bpe-train.ts";
export { trainBpe } from "./bpe-train.ts";
export { ByteLevelTokenizer } from "./byte-level.ts";
export { Utf8Stream } from "./bytes.ts";
export type { ChatMessage, ChatTemplateOptions, EncodedChat } from "./chat-template.ts";
export {
  applyChatTemplate,
  CHAT_SPECIAL_TOKENS,
  CHAT_TOKENIZER_CONFIG,
  DEFAULT_CHAT_TEMPLATE,
  encodeChat,
} from "./chat-template.ts";
export type { Encoding, EncodingInput } from "./encoding.ts";
export { FileTokenizer } from "./file-tokenizer.ts";
export type { ConfiguredToken, TokenizerConfig } from "./folder.ts";
export type { CountedWords, LearnerOptions } from "./learner.ts";
export { gpt2File, loadTokenizer, tokenizerFromJson } from "./load.ts";
export { encodeMany } from "./many.ts";
export { GPT2_PATTERN } from "./pretokenize.ts";
export type { TokenizerFile } from "./schema.ts";
export { checkTokenizerFile } from "./schema.ts";
export { Llama2cTokenizer } from "./sentencepiece.ts";
export type { TiktokenEncoding } from "./tiktoken.ts";
export { tokenizerFromTiktoken } from "./tiktoken.ts";
export type { TrainingProgress, TrainManyOptions, TrainTokenizerOptions } from "./train.ts";
export { trainByteLevel, trainByteLevelBpe } from "./train.ts";
export type { TokenizerKind, TrainKindOptions } from "./train-kinds.ts";
export { TRAINABLE, trainTokenizer } from "./train-kinds.ts";
export type {
  AllowedSpecial,
  DecodeOptions,
  EncodeManyOptions,
  EncodeOptions,
  EncodingOptions,
  StreamOptions,
  Tokenizer,
  TokenStream,
} from "./types.ts";
