import { isAscii, isUtf8 } from "node:buffer";
import { ReadError } from "../document.ts";
import { repairWindows1252 } from "./entities.ts";

/** Text and what its bytes were. */
export interface Decoded {
  readonly text: string;
  /** WHATWG name, such as `utf-8`, `gb18030`, `windows-1251`. */
  readonly encoding: string;
  /** Places that were not valid; U+FFFD stands there. */
  readonly replaced: number;
}

/** The canonical name of an encoding a page or server names; undefined if nobody knows it. */
export function encodingName(label: string | undefined): string | undefined {
  if (label === undefined) return undefined;
  try {
    const name = new TextDecoder(label.trim()).encoding;
    // GBK pages hold characters that only GB18030, its superset, has.
    return name === "gbk" ? "gb18030" : name;
  } catch {
    return undefined;
  }
}

/** A decoder that gives the same on every version of Node. */
export function makeDecoder(
  encoding: string,
  options: { readonly fatal?: boolean } = {},
): { decode(bytes?: Uint8Array, options?: { stream?: boolean }): string } {
  const decoder = new TextDecoder(encoding, options);
  if (encoding !== "windows-1252") return decoder;
  return { decode: (bytes, how) => repairWindows1252(decoder.decode(bytes, how)) };
}

function decodeStrictly(bytes: Uint8Array, encoding: string): string | undefined {
  try {
    return makeDecoder(encoding, { fatal: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

/** Characters that make up about a third to a half of ordinary text in each way of writing. */
const frequent: Record<string, Set<string>> = {
  gb18030: new Set(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义各入几口认条平系气题活尔更别打女变四神总何电数安少报才结反受目太量再感建务做接必场件计管期市直德资命山金指克许统区保至队形社便空决治展马科司五基眼书非则听白却界达光放强即像难且权思王象完设式色路记南品住告类求据程北边死张该交规万取拉格望觉术领共确传师观清今切院让识候带导争运，。、：；“”？！",
  ),
  big5: new Set(
    "的一是不了在人有我他這個們中來上大為和國地到以說時要就出會可也你對生能而子那得於著下自之年過發後作裡用道行所然家種事成方多經麼去法學如都同現當沒動面起看定天分還進好小部其些主樣理心她本前開但因只從想實日軍者意無力它與長把機十民第公此已工使情明性知全三又關點正業外將兩高間由問很最重並物手應戰向頭文體政美相見被利什二等產或新己制身果加西斯月話合回特代內信表化老給世位次度門任常先海通教兒原東聲提立及比員解水名真論處走義各入幾口認條平系氣題活爾更別打女變四神總何電數安少報才結反受目太量再感建務做接必場件計管期市直德資命山金指克許統區保至隊形社便空決治展馬科司五基眼書非則聽白卻界達光放強即像難且權思王象完設式色路記南品住告類求據程北邊死張該交規萬取拉格望覺術領共確傳師觀清今切院讓識候帶導爭運，。、：；「」？！",
  ),
  japanese: new Set([
    ..."のにはをたがでてとしれさいるなもこかっくまあきうよりおらだけめそどせじちつみわえばゃょやすンスルトイアラリクレドシタフテバブマムメロデジグパプコサニオキナカ日本年人大一国中出、。ー・「」",
  ]),
  "euc-kr": new Set(
    "이다에의는가을를고하은지로한서도기사어나자시인대으아리일정수그해스있라만부전보상제장원주과들여동구관었니게비와성유조마면거선국위트우운소공적치드오경미신안회요무문등년할실경용중학르않내했없것될때및더말모방재산",
  ),
  "windows-1251": new Set("оеаинтсрвлкмдпуяыьгзбчйхжОЕАИНТСРВ"),
  "koi8-r": new Set("оеаинтсрвлкмдпуяыьгзбчйхжОЕАИНТСРВ"),
  "windows-1253": new Set("αοιετνησρκπυλμωάίόέήύςγδ"),
  "windows-1255": new Set("יוהלאתבשרמנדםקעחגטןפסכ"),
  "windows-1256": new Set("اليمنوترهبدسعفقكحةجشأى،"),
  "windows-874": new Set("านรอกเงมยลวดทสตะปบคหแจพช่้ัีิ็์ไใขถุูผ"),
  "windows-1252": new Set("éèàçüöäßñóíáúâêôîãõåøæëïÉÖÄÜ’“”–—…«»°£€©®"),
  "windows-1250": new Set("ěščřžýáíéůúďťňłąęśćżźńóőűäöüôľČŠŽŚŁ„”“’–"),
  "windows-1254": new Set("ığşİçöüŞĞÇÖÜâ’“”"),
};

/** In the order in which they win when nothing tells them apart. */
const multibyte = ["gb18030", "big5", "shift_jis", "euc-jp", "euc-kr"];
const singleByte = [
  "windows-1252",
  "windows-1251",
  "koi8-r",
  "windows-1250",
  "windows-1254",
  "windows-1253",
  "windows-1255",
  "windows-1256",
  "windows-874",
];

const tableOf = (encoding: string): Set<string> | undefined =>
  frequent[encoding === "shift_jis" || encoding === "euc-jp" ? "japanese" : encoding];

/**
 * How much a text looks like what an encoding is used for: the share of its characters beyond ASCII that are frequent there, less the
 * share of those that hardly occur in any text.
 */
function plausibility(text: string, encoding: string): number {
  const table = tableOf(encoding);
  if (table === undefined) return 0;
  let known = 0;
  let odd = 0;
  let all = 0;
  let last = "";
  for (const one of text) {
    const code = one.codePointAt(0)!;
    if (code < 0x80) {
      last = one;
      continue;
    }
    all++;
    if (table.has(one)) known++;
    // Control characters, private use, rare symbols; small letters followed by capitals inside of a word.
    else if (code < 0xa0 || (code >= 0xe000 && code < 0xf900) || code === 0xfffd || "¤¦¨¬¯¸¶¹¼½¾¿×÷ðþ".includes(one))
      odd++;
    if (/\p{Ll}/u.test(last) && /\p{Lu}/u.test(one)) odd++;
    last = one;
  }
  return all === 0 ? 0 : (known - 2 * odd) / all;
}

/** The most plausible encoding of bytes that are not UTF-8, and how plausible it is (0 to 1). */
function guess(bytes: Uint8Array): { readonly encoding: string; readonly score: number } {
  let best = { encoding: "windows-1252", score: 0.02 };
  for (const encoding of [...multibyte, ...singleByte]) {
    let text = decodeStrictly(bytes, encoding);
    // The sample may end inside of a character.
    for (let cut = 1; text === undefined && cut <= 3 && multibyte.includes(encoding); cut++) {
      text = decodeStrictly(bytes.subarray(0, bytes.length - cut), encoding);
    }
    if (text === undefined) continue;
    const score = plausibility(text, encoding);
    if (score > best.score + 0.001) best = { encoding, score };
  }
  return best;
}

/** UTF-16 without a byte order mark: text of ASCII letters or line feeds has a zero in every second byte. */
function isUtf16(bytes: Uint8Array): "utf-16le" | "utf-16be" | undefined {
  const n = Math.min(bytes.length & ~1, 8192);
  if (n < 8) return undefined;
  let even = 0;
  let odd = 0;
  for (let i = 0; i < n; i += 2) {
    if (bytes[i] === 0) even++;
    if (bytes[i + 1] === 0) odd++;
  }
  const encoding =
    odd > n * 0.05 && odd > even * 10 ? "utf-16le" : even > n * 0.05 && even > odd * 10 ? "utf-16be" : undefined;
  if (encoding === undefined) return undefined;
  const text = decodeStrictly(bytes.subarray(0, n), encoding) ?? decodeStrictly(bytes.subarray(0, n - 2), encoding);
  return text === undefined || looksBinary(text) ? undefined : encoding;
}

/**
 * UTF-16 without a byte order mark in a script that has no zeros to tell it by: in the right order of bytes its characters are frequent ones, in the
 * other they are scattered over all of Unicode.
 */
function guessUtf16(bytes: Uint8Array): { readonly encoding: string; readonly score: number } | undefined {
  const n = Math.min(bytes.length & ~1, 8192);
  let best: { encoding: string; score: number } | undefined;
  for (const encoding of ["utf-16le", "utf-16be"]) {
    // The sample may end between the halves of a surrogate pair.
    const text = decodeStrictly(bytes.subarray(0, n), encoding) ?? decodeStrictly(bytes.subarray(0, n - 2), encoding);
    if (text === undefined || looksBinary(text)) continue;
    const score = Math.max(...multibyte.map((one) => plausibility(text, one)));
    if (score >= 0.2 && score > (best?.score ?? 0)) best = { encoding, score };
  }
  return best;
}

/** More than one in fifty characters are control characters that text does not have. */
function looksBinary(text: string): boolean {
  let control = 0;
  const n = Math.min(text.length, 65_536);
  for (let i = 0; i < n; i++) {
    const code = text.charCodeAt(i);
    if (code < 32 && code !== 9 && code !== 10 && code !== 13 && code !== 12 && code !== 27) control++;
  }
  return control * 50 > n;
}

/** Sequences of more than one byte that are valid UTF-8, and bytes that are not. */
function countUtf8(bytes: Uint8Array, cut: boolean): { readonly valid: number; readonly invalid: number } {
  let valid = 0;
  let invalid = 0;
  for (let i = 0; i < bytes.length; ) {
    const lead = bytes[i]!;
    if (lead < 0x80) {
      i++;
      continue;
    }
    const size =
      lead >= 0xc2 && lead <= 0xdf ? 2 : lead >= 0xe0 && lead <= 0xef ? 3 : lead >= 0xf0 && lead <= 0xf4 ? 4 : 0;
    if (cut && size > 0 && i + size > bytes.length) break;
    if (size > 0 && isUtf8(bytes.subarray(i, i + size))) {
      valid++;
      i += size;
    } else {
      invalid++;
      i++;
    }
  }
  return { valid, invalid };
}

const SAMPLE = 65_536;

/** The first part of a text that tells its encoding: not kilobytes of script and style before the first letter beyond ASCII. */
function sampleOf(bytes: Uint8Array): Uint8Array {
  let at = 0;
  while (at < bytes.length && isAscii(bytes.subarray(at, at + SAMPLE))) at += SAMPLE;
  if (at >= bytes.length) return bytes.subarray(0, SAMPLE);
  if (at === 0) {
    const half = bytes.subarray(0, SAMPLE / 2);
    if (bytes.length <= SAMPLE || !isAscii(half)) return bytes.subarray(0, SAMPLE);
  }
  while (bytes[at]! < 0x80) at++;
  return bytes.subarray(at, at + SAMPLE);
}

/**
 * The encoding of a text, from its first bytes: its byte order mark; UTF-8 if it is; UTF-16 by its zeros or its characters; what was declared,
 * unless the bytes say otherwise; the most plausible by how frequent its characters are.
 * @param bytes the beginning, at best 64 KB of it or more
 * @param cut whether there is more after it, so that it may end inside of a character
 * @throws ReadError `binary` when this is not text
 */
export function detectEncoding(bytes: Uint8Array, declared?: string, cut = false): string {
  const [a, b, c] = bytes;
  if (a === 0xef && b === 0xbb && c === 0xbf) return "utf-8";
  if (a === 0xff && b === 0xfe) return "utf-16le";
  if (a === 0xfe && b === 0xff) return "utf-16be";
  const first = bytes.subarray(0, SAMPLE);
  const wide = isUtf16(first);
  if (wide !== undefined) return wide;
  let zeros = 0;
  for (const byte of first) if (byte === 0) zeros++;
  if (zeros * 100 > first.length) {
    const found = guessUtf16(first);
    if (found === undefined) throw new ReadError("binary", "These bytes are not text.");
    return found.encoding;
  }
  const sample = sampleOf(bytes);
  const { valid, invalid } = countUtf8(
    sample,
    cut || sample.byteOffset + sample.length < bytes.byteOffset + bytes.length,
  );
  if (invalid === 0) {
    if (looksBinary(new TextDecoder("latin1").decode(sample)))
      throw new ReadError("binary", "These bytes are not text.");
    // Bytes below 128 only: a declared ISO-2022-JP is the one that means something else by them.
    const name = encodingName(declared);
    return valid === 0 && name === "iso-2022-jp" && sample.includes(27) ? name : "utf-8";
  }
  const name = encodingName(declared);
  // A few broken places in UTF-8 are broken places; in another encoding few sequences would be valid by chance.
  if (valid > invalid * 8) return "utf-8";
  // ASCII text ahead tells nothing: look where the other bytes are.
  const best = guess(aroundHighBytes(sample));
  const inUtf16 = guessUtf16(first);
  if (inUtf16 !== undefined && inUtf16.score > best.score) return inUtf16.encoding;
  if (name !== undefined && name !== "utf-8" && name !== best.encoding) {
    const text = decodeStrictly(sample, name) ?? decodeStrictly(sample.subarray(0, -1), name);
    if (text !== undefined && tableOf(name) === undefined) return name;
    if (text !== undefined && plausibility(text, name) >= best.score - 0.15) return name;
  }
  const text = makeDecoder(best.encoding).decode(sample);
  if (looksBinary(text) || (best.score <= 0.02 && invalid * 4 > sample.length))
    throw new ReadError("binary", "These bytes are not text in any encoding we know.");
  return best.encoding;
}

/** The first part of a sample that holds enough bytes beyond ASCII to judge by. */
function aroundHighBytes(sample: Uint8Array): Uint8Array {
  let high = 0;
  for (let i = 0; i < sample.length; i++) {
    if (sample[i]! >= 0x80 && ++high >= 4000 && sample[i + 1]! < 0x80) return sample.subarray(0, i + 1);
  }
  return sample;
}

/** Counts U+FFFD that decoding put in. */
const countReplaced = (text: string): number => text.split("\ufffd").length - 1;

/**
 * Bytes as text.
 * @param declared what a server or the text itself says its encoding is; not believed against the bytes
 * @throws ReadError `binary` when this is not text
 */
export function decodeBytes(bytes: Uint8Array, declared?: string): Decoded {
  const encoding = detectEncoding(bytes, declared);
  const strict = decodeStrictly(bytes, encoding);
  if (strict !== undefined) return { text: strict, encoding, replaced: 0 };
  const text = makeDecoder(encoding).decode(bytes);
  return { text, encoding, replaced: countReplaced(text) };
}

const DECLARED =
  /<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]{2,40})|<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w-]{2,40})/i;

/** An HTML page's bytes as text. What the server says (`charset` of Content-Type) counts before what the page says; neither against the bytes. */
export function decodePage(bytes: Uint8Array, served?: string): Decoded {
  const head = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.length, 4096)).toString("latin1");
  const found = DECLARED.exec(head);
  return decodeBytes(bytes, served ?? found?.[1] ?? found?.[2]);
}
