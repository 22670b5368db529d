import type { Command } from "../../src/cli/command.ts";
import { compare } from "./compare.ts";
import { gemm } from "./gemm.ts";
import { gpt } from "./gpt.ts";
import { profile } from "./profile.ts";

/** Every suite, in the order of `npm run bench -- --help`. */
export const suites: readonly Command[] = [gpt, gemm, profile, compare];
