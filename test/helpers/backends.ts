import { loadNativeBackend } from "../../src/engine/backends/native/backend.ts";
import { type Backend, ReferenceBackend } from "../../src/engine/index.ts";

const native = loadNativeBackend();

/** The backends of this machine: the reference always, the native one when its kernels are built (said once when not). */
export const backends: readonly Backend[] = [new ReferenceBackend(), ...("missing" in native ? [] : [native])];
if ("missing" in native) console.warn(`The native backend is not tested: ${native.missing}`);
