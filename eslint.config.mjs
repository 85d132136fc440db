// How the JavaScript is read: the explorers' modules, which run in a browser, and what runs in Node.
import js from "@eslint/js";

const named = (...names) => Object.fromEntries(names.map((name) => [name, "readonly"]));

export default [
  js.configs.recommended,
  {
    rules: {
      "max-len": ["error", { code: 120 }],
      "max-lines-per-function": ["error", { max: 40, skipComments: true }],
      complexity: ["error", 16],
      "max-params": ["error", 7],
      eqeqeq: "error",
      "no-shadow": "error",
      "no-var": "error",
      "prefer-const": "error",
      "object-shorthand": "error",
      quotes: ["error", "double", { avoidEscape: true }],
      semi: "error",
    },
  },
  {
    files: ["minqwen/widgets/*.js"],
    languageOptions: {
      globals: named("atob", "clearTimeout", "document", "ImageData", "matchMedia", "MutationObserver",
        "ResizeObserver", "setTimeout", "URL"),
    },
  },
  { files: ["tests/*.mjs"], languageOptions: { globals: named("Buffer") } },
];
