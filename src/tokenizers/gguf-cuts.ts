import { GPT2_PATTERN } from "./pretokenize.ts";
import { O200K_PATTERN } from "./tiktoken.ts";

/** How a byte-level vocabulary in a GGUF file is used, which its `tokenizer.ggml.pre` names. */
export interface Cut {
  /** Expressions that text is cut by, one after the other, each within what those before it left; matches and what lies between are pieces. */
  readonly patterns: readonly string[];
  /** A piece that is a token as it stands is that token, whatever the merges say. */
  readonly whole: boolean;
  /** Whether a beginning token is added where the file does not say. */
  readonly bos: boolean;
}

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const WORDS = "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const SPACES = "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
/** LLaMA 3's expression, with so many digits together and these ends of lines after punctuation. */
const llama3 = (digits: string) => `${CONTRACTIONS}|${WORDS}|\\p{N}${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${SPACES}`;
const LLAMA3 = llama3("{1,3}");
const QWEN2 = llama3("");
const CASED =
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+END|" +
  "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*END";
const PUNCTUATION = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~]";
const IDEOGRAPHS = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
const DEEPSEEK3 = `${PUNCTUATION}[A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+`;
const BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+";
/** Letters with a case, as DeepSeek LLM lists them. */
const CASED_LETTERS =
  "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a" +
  "\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b" +
  "\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc" +
  "\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126" +
  "\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d" +
  "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a" +
  "\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}\u{1e900}-\u{1e943}";
/** The end of a piece; `$` would be the end of a line. */
const END = "(?![\\s\\S])";
const HAN_AND_HANGUL = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";

const of = (names: string, patterns: readonly string[], { whole = false, bos = false } = {}) =>
  names.split(" ").map((name): [string, Cut] => [name, { patterns, whole, bos }]);

/**
 * Ways of cutting by the name that llama.cpp's converter writes for them. The expressions are those of the models themselves. llama.cpp
 * has approximations of some (tekken, gpt-4o and granite-embed-multi-97m, where every letter beyond ASCII counts as both upper and lower
 * case): there, ids are those of the model and not always llama.cpp's.
 */
export const CUTS: ReadonlyMap<string, Cut> = new Map([
  ...of("default", ["[\\p{P}\\$\\+<=>\\^~\\|]+", GPT2_PATTERN, "\\p{N}+", "[0-9][0-9][0-9]"]),
  ...of("llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", [LLAMA3], {
    whole: true,
    bos: true,
  }),
  ...of("dbrx smaug-bpe chatglm-bpe", [LLAMA3]),
  ...of("glm4 glm5", [LLAMA3], { whole: true }),
  ...of("jais-2", [
    `${CONTRACTIONS}|${WORDS}|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|${[
      512, 256, 128, 64, 32, 16, 8, 4,
    ]
      .map((n) => `\\s{${n}}(?!\\S)`)
      .join("|")}|\\s{1,2}(?!\\S)|\\s{1}`,
  ]),
  ...of("deepseek-llm", [
    "[\\r\\n]",
    `\\s?[${CASED_LETTERS}]+`,
    "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    `\\s+${END}`,
    HAN_AND_HANGUL,
    "\\p{N}+",
  ]),
  ...of("deepseek-coder", ["[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", HAN_AND_HANGUL, "\\p{N}"]),
  ...of("deepseek-v3 hunyuan-dense joyai-llm hy_v4", ["\\p{N}{1,3}", IDEOGRAPHS, `${DEEPSEEK3}[\\r\\n]*|${SPACES}`]),
  ...of("spark2_5", ["\\p{N}{1,3}", IDEOGRAPHS, `${DEEPSEEK3}|[\\r\\n]|\\s+(?!\\S)|\\s+`, "\\p{N}"]),
  ...of("falcon", ["[\\p{P}\\$\\+<=>\\^~\\|`]+", GPT2_PATTERN, "[0-9][0-9][0-9]"]),
  ...of("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2", ["\\p{N}", GPT2_PATTERN]),
  ...of(
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code roberta-bpe mpt olmo jais " +
      "trillion granite-docling exaone4",
    [GPT2_PATTERN],
  ),
  ...of("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2", [QWEN2]),
  ...of("qwen35", [
    `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|${SPACES}`,
  ]),
  ...of("poro-chat bloom gpt3-finnish", [BLOOM]),
  ...of("viking", [BLOOM, "\\p{N}"]),
  ...of("tekken", [`${CASED.replaceAll("END", "")}|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|${SPACES}`], {
    whole: true,
    bos: true,
  }),
  ...of("gpt-4o llama4 kanana2 talkie minimax-m2", [O200K_PATTERN]),
  ...of("granite-embed-multi-97m", [O200K_PATTERN], { whole: true }),
  ...of("superbpe", ["\\p{N}+", "(?=(\\d{3})+(?!\\d))"]),
  ...of("bailingmoe bailingmoe2 llada-moe", [
    `'(?i:[sdmt]|ll|ve|re)|${WORDS}|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
  ]),
  ...of("seed-coder", [`${CONTRACTIONS}|${WORDS}|\\p{N}| ?[^\\s\\p{L}\\p{N}\\r\\n]+|${SPACES}`]),
  ...of("ufakzeka", [`${WORDS}|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${SPACES}`]),
  ...of("laguna", ["[^\\n]+|[\\n]+", QWEN2]),
  ...of("exaone-moe", [
    `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?(?:\\p{L}\\p{M}*(?: \\p{L}\\p{M}*)*)+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]?|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+`,
  ]),
  ...of("minicpm5", ["\\p{N}{1,3}", llama3("+")], { whole: true }),
]);
