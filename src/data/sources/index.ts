export { extensionOf, globPattern, type Input } from "./files.ts";
export { type PoEntry, parsePo } from "./po.ts";
export { listInputs, readDocuments, readInput, type SourceOptions, sourceOf } from "./read.ts";
