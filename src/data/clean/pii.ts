export type PiiKind = "email" | "phone" | "ip" | "id_number" | "card_number";
export const piiKinds: readonly PiiKind[] = ["email", "id_number", "card_number", "ip", "phone"];

export interface PiiFound {
  readonly kind: PiiKind;
  readonly start: number;
  readonly end: number;
}

export interface PiiOptions {
  readonly kinds?: readonly PiiKind[];
  /** What takes the place. Default `<email>` and so on. */
  readonly replacement?: (kind: PiiKind, found: string) => string;
}

interface Pattern {
  readonly kind: PiiKind;
  readonly pattern: RegExp;
  readonly valid?: (found: string) => boolean;
}

const digits = (s: string) => s.replace(/\D/g, "");

/** ISO/IEC 7812 (Luhn 1954): the check digit of payment cards. */
export function luhn(number: string): boolean {
  let sum = 0;
  for (let i = 0; i < number.length; i++) {
    let d = Number(number[number.length - 1 - i]);
    if (i % 2 === 1) {
      d *= 2;
      if (d > 9) d -= 9;
    }
    sum += d;
  }
  return sum % 10 === 0;
}

/** GB 11643-1999: the check character of Chinese citizens' 18-digit numbers (ISO 7064, MOD 11-2), and a date that exists. */
export function chineseId(number: string): boolean {
  const weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
  const sum = weights.reduce((n, w, i) => n + w * Number(number[i]), 0);
  if ("10X98765432"[sum % 11] !== number[17]!.toUpperCase()) return false;
  const [year, month, day] = [number.slice(6, 10), number.slice(10, 12), number.slice(12, 14)].map(Number) as [
    number,
    number,
    number,
  ];
  const date = new Date(Date.UTC(year, month - 1, day));
  return year >= 1900 && year <= 2100 && date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
}

/** US social security numbers: ranges that are never given out are no numbers. */
function socialSecurity(found: string): boolean {
  const [area, group, serial] = found.split("-");
  return area !== "000" && area !== "666" && area! < "900" && group !== "00" && serial !== "0000";
}

/** An address that belongs to somebody: private, loopback, documentation and other reserved ranges of RFC 6890 do not. */
export function publicIPv4(address: string): boolean {
  const [a, b, c] = address.split(".").map(Number) as [number, number, number, number];
  if (a === 0 || a === 10 || a === 127 || a >= 224) return false;
  if ((a === 100 && b >= 64 && b < 128) || (a === 169 && b === 254) || (a === 172 && b >= 16 && b < 32)) return false;
  if (a === 192 && ((b === 0 && (c === 0 || c === 2)) || (b === 88 && c === 99) || b === 168)) return false;
  if (
    (a === 198 && (b === 18 || b === 19)) ||
    (a === 198 && b === 51 && c === 100) ||
    (a === 203 && b === 0 && c === 113)
  )
    return false;
  return true;
}

const octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const patterns: readonly Pattern[] = [
  {
    kind: "email",
    // RFC 5322's dot-atom, at a domain name.
    pattern:
      /(?<![A-Za-z0-9._%+-])[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,64}){0,8}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])/g,
  },
  { kind: "id_number", pattern: /(?<![\dA-Za-z])[1-9]\d{5}(?:19|20)\d{9}[\dXx](?![\dA-Za-z])/g, valid: chineseId },
  { kind: "id_number", pattern: /(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])/g, valid: socialSecurity },
  {
    kind: "card_number",
    pattern: /(?<![\d.-])[3-6]\d{3}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d-])/g,
    valid: (found) => {
      const n = digits(found);
      return n.length >= 13 && n.length <= 19 && !/^(\d)\1+$/.test(n) && luhn(n);
    },
  },
  { kind: "ip", pattern: new RegExp(`(?<![\\d.])(?:${octet}\\.){3}${octet}(?![\\d.]*\\d)`, "g"), valid: publicIPv4 },
  {
    kind: "ip",
    pattern: /(?<![0-9A-Fa-f:.])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,6}(?![0-9A-Fa-f:])/g,
    // A time of day or a list of numbers is no address: eight groups, or a gap.
    valid: (found) =>
      (found.includes("::") ? found.split("::").length === 2 : found.split(":").length === 8) &&
      !/^(fe80|f[cd]|::1$)/i.test(found),
  },
  // Mainland mobile numbers, with or without +86.
  { kind: "phone", pattern: /(?<![\d.])(?:(?:\+|00)86[ -]?)?1[3-9]\d[ -]?\d{4}[ -]?\d{4}(?![\d])/g },
  // Chinese land lines: area code and number.
  { kind: "phone", pattern: /(?<![\d.-])0(?:10|2\d|[3-9]\d{2})-\d{7,8}(?![\d-])/g },
  // +country and groups of digits, ITU-T E.164: at most 15.
  {
    kind: "phone",
    pattern: /(?<![\d+])\+[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,5}(?:[ .-]?\d{2,5}){1,4}(?!\d)/g,
    valid: (found) => digits(found).length >= 8 && digits(found).length <= 15,
  },
  // North American: (555) 123-4567, 555-123-4567, 555.123.4567.
  { kind: "phone", pattern: /(?<![\d.-])(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[.-]\d{4}(?![\d-])/g },
];

/** Places of personal data, in order, without overlaps: of two that overlap the kind that stands first in {@link piiKinds} counts. */
export function findPii(text: string, kinds: readonly PiiKind[] = piiKinds): PiiFound[] {
  // Nothing personal is without a digit or an @; most lines of most texts have neither.
  if (!/[@\d]/.test(text)) return [];
  const found: PiiFound[] = [];
  for (const { kind, pattern, valid } of patterns) {
    if (!kinds.includes(kind) || (kind === "email" && !text.includes("@"))) continue;
    for (const match of text.matchAll(pattern)) {
      if (valid && !valid(match[0])) continue;
      const start = match.index;
      const end = start + match[0].length;
      if (!found.some((f) => f.start < end && start < f.end)) found.push({ kind, start, end });
    }
  }
  return found.sort((a, b) => a.start - b.start);
}

/** The text with personal data replaced, and how much of each kind was. */
export function replacePii(
  text: string,
  options: PiiOptions = {},
): { text: string; counts: Partial<Record<PiiKind, number>> } {
  const { kinds = piiKinds, replacement = (kind) => `<${kind}>` } = options;
  const counts: Partial<Record<PiiKind, number>> = {};
  let out = "";
  let at = 0;
  for (const { kind, start, end } of findPii(text, kinds)) {
    out += text.slice(at, start) + replacement(kind, text.slice(start, end));
    at = end;
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return { text: out + text.slice(at), counts };
}
