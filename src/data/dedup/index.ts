export * from "./decontaminate.ts";
export * from "./exact.ts";
export { KeyIndex, type KeyIndexOptions } from "./key-index.ts";
export { agreement, type Banding, chooseBanding, jaccard, MinHasher, meeting, shingles } from "./minhash.ts";
export * from "./near.ts";
export { SubstringDuplicates, type SubstringOptions } from "./substrings.ts";
export { commonPrefixes, repeatedSubstrings, type Span, suffixArray } from "./suffix-array.ts";
export { UnionFind } from "./union-find.ts";
