// `npm run check`: types, lint and format, import layers. The last line is `N passed, N failed`.

import { layersCheck, lintCheck, runChecks, typeChecks } from "./lib/checks.mjs";
import { say } from "./lib/console.mjs";

const { passed, failed } = await runChecks([...typeChecks(), lintCheck, layersCheck]);
say(`${passed} passed, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;
