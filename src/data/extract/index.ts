export { type Decoded, decodeBytes, decodePage, detectEncoding } from "./encoding.ts";
export { extractPage, type Page, type PageOptions } from "./html.ts";
export { extractRaw } from "./raw.ts";
