import type { HostArray } from "../../../tensor/dtype.ts";
import type { Instruction, Program, ProgramValue } from "../../program.ts";

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
        attributes: i.attributes,
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
  return { json: JSON.stringify(tree(program), exactNumbers), constants };
}

/** JSON has no infinities, no NaN and loses the sign of zero: those travel as strings, which the addon reads back as numbers. */
function exactNumbers(_key: string, value: unknown): unknown {
  if (typeof value !== "number") return value;
  if (Number.isFinite(value)) return Object.is(value, -0) ? "-0" : value;
  return String(value);
}
