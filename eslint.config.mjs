// How the JavaScript is read: what runs in a browser, the explorers and the site, and what runs in Node.
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
      globals: named("atob", "clearTimeout", "document", "Event", "ImageData", "matchMedia", "MutationObserver",
        "ResizeObserver", "setTimeout", "URL"),
    },
  },
  {
    files: ["website/site.js"],
    languageOptions: {
      sourceType: "script",
      globals: named("addEventListener", "document", "innerHeight", "matchMedia", "requestAnimationFrame"),
    },
  },
  {
    files: ["website/{nano,kernel,live}.js"],
    languageOptions: {
      globals: named("atob", "Blob", "clearTimeout", "DecompressionStream", "document", "performance", "Response",
        "setTimeout", "TextDecoder", "TextEncoder"),
    },
  },
  { files: ["website/*.mjs"], languageOptions: { globals: named("console", "process") } },
  { files: ["tests/*.mjs"], languageOptions: { globals: named("Buffer", "console", "process") } },
];
