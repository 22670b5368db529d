/** Lets everything else that waits in this thread run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
