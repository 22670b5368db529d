import { jit } from "../../src/tensor/jit.ts";

/** What `f` gives, computed as one program: nothing but its result stays alive. */
export function once<R>(f: () => R): R {
  const compiled = jit(f);
  const result = compiled();
  compiled.release();
  return result;
}
