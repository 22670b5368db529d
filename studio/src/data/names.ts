import type { Language } from "../language.ts";

/** What a rule of a filter says no to, in a person's words; others go by their own name. */
const rules: Record<string, readonly [english: string, chinese: string]> = {
  "clean/empty": ["Nothing was left", "什么也没有剩下"],
  "language/other": ["In another language", "其他语言"],
  "language/unsure": ["Language not clear", "语言不明确"],
  "gopher_quality/short": ["Too few words", "词太少"],
  "gopher_quality/long": ["Too many words", "词太多"],
  "gopher_quality/short_words": ["Words too short", "词太短"],
  "gopher_quality/long_words": ["Words too long", "词太长"],
  "gopher_quality/hashes": ["Too many # signs", "# 号太多"],
  "gopher_quality/ellipses": ["Too many ellipses", "省略号太多"],
  "gopher_quality/bullets": ["Mostly bullet points", "大多是列表项"],
  "gopher_quality/ellipsis_lines": ["Lines end with ellipses", "太多行以省略号结尾"],
  "gopher_quality/letters": ["Too few words with letters", "含字母的词太少"],
  "gopher_quality/stop_words": ["Too few common words", "常用词太少"],
  "gopher_repetition/empty": ["No text", "没有正文"],
  "gopher_repetition/paragraphs": ["Repeated paragraphs", "段落重复"],
  "gopher_repetition/paragraph_characters": ["Much text in repeated paragraphs", "重复段落占比大"],
  "gopher_repetition/lines": ["Repeated lines", "行重复"],
  "gopher_repetition/line_characters": ["Much text in repeated lines", "重复行占比大"],
  "c4/lorem_ipsum": ["Filler text", "占位文字"],
  "c4/curly_bracket": ["Has a curly bracket: code", "含花括号，像代码"],
  "c4/few_sentences": ["Too few sentences", "句子太少"],
  "c4_paragraphs/few_paragraphs": ["Too few long lines", "长行太少"],
  "fineweb/empty": ["No text", "没有正文"],
  "fineweb/line_ends": ["Lines do not end sentences", "多数行不以句末标点结尾"],
  "fineweb/short_lines": ["Too many short lines", "短行太多"],
  "fineweb/duplicate_characters": ["Much text in repeated lines", "重复行占比大"],
  "fineweb/list": ["A list, not prose", "是列表，不是文章"],
  "chinese/garbled": ["Garbled text", "乱码"],
  "chinese/short": ["Too few characters", "字太少"],
  "chinese/han": ["Too little Chinese", "中文太少"],
  "chinese/short_lines": ["Lines too short", "行太短"],
  "chinese/punctuation": ["Too many signs", "符号太多"],
  "chinese/repeated": ["Repeats itself", "内容重复"],
  "perplexity/high": ["Unlike good text", "不像好的文本"],
  "perplexity/low": ["Repeats what is known", "过于重复"],
  "quality/pareto": ["Quality too low", "质量太低"],
  "word_list/listed": ["Has listed words", "含有词表中的词"],
};

/** What filters take out of a text that stays. */
const takings: Record<string, readonly [english: string, chinese: string]> = {
  "repair/repaired": ["Broken characters mended", "修复了字符"],
  "c4/line: long_word": ["Lines with a very long word", "含超长词的行"],
  "c4/line: no_terminal_punctuation": ["Lines that do not end a sentence", "不以句末标点结尾的行"],
  "c4/line: few_words": ["Lines of few words", "词太少的行"],
  "c4/line: javascript": ["Lines about JavaScript", "提到 JavaScript 的行"],
  "c4/line: policy": ["Lines about cookies and policies", "关于 Cookie 和条款的行"],
  "chinese/line: advertising": ["Lines of advertising", "广告行"],
  "pii/email": ["E-mail addresses", "电子邮箱"],
  "pii/phone": ["Phone numbers", "电话号码"],
  "pii/ip": ["IP addresses", "IP 地址"],
  "pii/id_number": ["ID numbers", "证件号码"],
  "pii/card_number": ["Card numbers", "银行卡号"],
};
export const takenName = (rule: string, language: Language): string =>
  takings[rule]?.[language === "zh" ? 1 : 0] ?? rule;

/** What is known of a document, besides fields of its own. */
const known: Record<string, readonly [english: string, chinese: string]> = {
  id: ["Name", "标识"],
  url: ["Address", "网址"],
  path: ["File", "文件"],
  member: ["In it", "包内文件"],
  page: ["Page", "页"],
  record: ["Record", "记录"],
  mediaType: ["Format", "格式"],
  encoding: ["Encoding", "编码"],
  date: ["Date", "日期"],
  author: ["Author", "作者"],
  language: ["Says it is", "自述语言"],
  licence: ["Licence", "许可证"],
};
export const knownName = (key: string, language: Language): string => known[key]?.[language === "zh" ? 1 : 0] ?? key;

/** @param rule `filter/rule` */
export function ruleName(rule: string, language: Language): string {
  const zh = language === "zh";
  const known = rules[rule];
  if (known) return known[zh ? 1 : 0];
  const [filter, name = ""] = rule.split("/");
  const n = /(\d+)_gram/.exec(name)?.[1];
  if (filter === "gopher_repetition" && n) {
    if (name.startsWith("top")) return zh ? `同一个 ${n} 词短语太多` : `One run of ${n} words too often`;
    return zh ? `${n} 词短语重复` : `Repeated runs of ${n} words`;
  }
  if (filter === "decontaminate") return zh ? `含评测集 ${name} 的内容` : `Has text of the evaluation ${name}`;
  return rule;
}
