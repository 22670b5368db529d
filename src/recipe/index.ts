export * from "./dial.ts";
export * from "./load.ts";
export { type Path, RecipeError, type RecipeIssue } from "./locate.ts";
export * from "./nearest.ts";
export type { LoadedRecipe, Recipe } from "./resolve.ts";
export * from "./scalars.ts";
export { recipeSchema } from "./schema.ts";
export * from "./stages.ts";
