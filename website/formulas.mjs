// TeX to MathML: reads one JSON object a line, {"tex": ..., "display": ...}, and answers each with one line,
// {"mathml": ...} or {"error": ...}. build.py keeps it running while it makes a site.
import { createInterface } from "node:readline";

import temml from "temml";

for await (const line of createInterface({ input: process.stdin })) {
  const { tex, display } = JSON.parse(line);
  let answer;
  try {
    answer = { mathml: temml.renderToString(tex, { displayMode: display, throwOnError: true, strict: true }) };
  } catch (error) {
    answer = { error: error.message };
  }
  console.log(JSON.stringify(answer));
}
