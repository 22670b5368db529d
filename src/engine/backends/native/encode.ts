import type { HostArray } from "../../../tensor/dtype.ts";
import type { Attribute, Instruction, Program, ProgramValue } from "../../program.ts";
import { type Sliced, whole } from "../../slices.ts";

/** A program as the addon reads it: JSON, with the constants of all nested programs in one list beside it. */
export interface EncodedProgram {
  readonly json: string;
  readonly constants: readonly HostArray[];
}

export function encodeProgram(program: Program): EncodedProgram {
  return whole(encodingProgram(program));
}

/** As `encodeProgram`, to be done in slices. */
export function* encodingProgram(program: Program): Sliced<EncodedProgram> {
  const constants: HostArray[] = [];
  const json = JSON.stringify;
  const textOf = ({ dtype, shape, storage }: ProgramValue) => json({ dtype, shape, storage });
  const instructionOf = ({ op, inputs, outputs, attributes, scope }: Instruction) =>
    json({ op, inputs, outputs, attributes: exact(attributes), ...(scope ? { scope } : {}) });
  /** An object of what `json` gives and lists that are written one by one. The constants are positions in the common list. */
  const tree = function* (p: Program): Sliced<string> {
    const positions = p.constants.map((data) => constants.push(data) - 1);
    const values: string[] = [];
    for (const [i, value] of p.values.entries()) {
      values.push(textOf(value));
      if (i % 16 === 0) yield;
    }
    const instructions: string[] = [];
    for (const instruction of p.instructions) {
      let text = instructionOf(instruction);
      if (instruction.programs) {
        const programs: string[] = [];
        for (const inner of instruction.programs) programs.push(yield* tree(inner));
        text = `${text.slice(0, -1)},"programs":[${programs.join()}]}`;
      }
      instructions.push(text);
      yield;
    }
    const { inputs, outputs, aliases, arenaBytes } = p;
    const rest = json({ inputs, outputs, constants: positions, aliases, arenaBytes });
    return `{"values":[${values.join()}],"instructions":[${instructions.join()}],${rest.slice(1)}`;
  };
  return { json: yield* tree(program), constants };
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
