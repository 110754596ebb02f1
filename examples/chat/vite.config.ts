import { defineConfig } from "vite";

export default defineConfig({
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  // The content security policy allows no data: scripts and the page loads nothing but itself.
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
});
