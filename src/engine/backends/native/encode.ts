import type { HostArray } from "../../../tensor/dtype.ts";
import type { Attribute, Instruction, Program, ProgramValue } from "../../program.ts";

/** A program as the addon reads it: JSON, with the constants of all nested programs in one list beside it. */
export interface EncodedProgram {
  readonly json: string;
  readonly constants: readonly HostArray[];
}

type EncodedValue = Pick<ProgramValue, "dtype" | "shape" | "storage">;

interface EncodedInstruction {
  readonly op: string;
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  readonly attributes: Instruction["attributes"];
  readonly scope?: string;
  readonly programs?: readonly EncodedTree[];
}

interface EncodedTree {
  readonly values: readonly EncodedValue[];
  readonly instructions: readonly EncodedInstruction[];
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
  /** Positions in the common list. */
  readonly constants: readonly number[];
  readonly aliases: Program["aliases"];
  readonly arenaBytes: number;
}

export function encodeProgram(program: Program): EncodedProgram {
  const constants: HostArray[] = [];
  const tree = (p: Program): EncodedTree => {
    const positions = p.constants.map((data) => constants.push(data) - 1);
    return {
      values: p.values.map(({ dtype, shape, storage }) => ({ dtype, shape, storage })),
      instructions: p.instructions.map((i) => ({
        op: i.op,
        inputs: i.inputs,
        outputs: i.outputs,
        attributes: exact(i.attributes) as Instruction["attributes"],
        ...(i.scope ? { scope: i.scope } : {}),
        ...(i.programs ? { programs: i.programs.map(tree) } : {}),
      })),
      inputs: p.inputs,
      outputs: p.outputs,
      constants: positions,
      aliases: p.aliases,
      arenaBytes: p.arenaBytes,
    };
  };
  return { json: JSON.stringify(tree(program)), constants };
}

/** JSON has no infinities, no NaN and loses the sign of zero: those travel as strings, which the addon reads back as numbers. */
function exact<A extends Attribute | undefined>(value: A): A | Attribute {
  if (typeof value === "number") return Number.isFinite(value) && !Object.is(value, -0) ? value : said(value);
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) {
    const list = value as readonly Attribute[];
    return list.every((item) => exact(item) === item) ? value : list.map((item) => exact(item));
  }
  const entries = Object.entries(value);
  return entries.every(([, item]) => exact(item) === item)
    ? value
    : Object.fromEntries(entries.map(([key, item]) => [key, exact(item)]));
}

const said = (x: number): string => (Object.is(x, -0) ? "-0" : String(x));
