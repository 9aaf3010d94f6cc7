"""The `cloister` command: one module per noun, each loaded only when its noun is typed."""
