/** The whole house in one import. Importing it installs the default backend: native where its kernels are built. */
import { activeBackend, chooseBackend, useBackend } from "./engine/index.ts";

export * from "./align/index.ts";
export * from "./checkpoint/index.ts";
export * from "./data/index.ts";
export * from "./engine/index.ts";
export * from "./evaluate/index.ts";
export * from "./generate/index.ts";
export * from "./models/index.ts";
export * from "./nn/index.ts";
export * from "./pipeline/index.ts";
export { type LoadedRecipe, loadRecipe, parseRecipe, type Recipe, RecipeError, writeResolved } from "./recipe/index.ts";
export * from "./runs/index.ts";
export { createServer, type ModelHost, type ModelRegistry, type Server, type ServerOptions } from "./serve/index.ts";
export * from "./tensor/index.ts";
export { uniform } from "./tensor/index.ts";
export * from "./tokenizers/index.ts";
export * from "./train/index.ts";

if (!activeBackend()) useBackend(chooseBackend("auto", (line) => console.warn(`howdah: ${line}`)));
