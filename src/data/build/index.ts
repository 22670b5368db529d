export * from "./job.ts";
export { type Placement, placeDocuments, planMixture, type SourceShare, type SourceSize } from "./mix.ts";
export { type DataRecipe, loadDataRecipe, parseDataRecipe, writeDataRecipe } from "./recipe.ts";
export { type DataReport, reportMarkdown } from "./report.ts";
export { lda, type Ranked, type Topic, textRank, tfIdf } from "./understand.ts";
export { type DroppedDocument, type KeptDocument, type UnitResult, unitFiles } from "./unit.ts";
