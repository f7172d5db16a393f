"""Cross-field rules: what a JSON Schema cannot express. Every rule always runs."""
