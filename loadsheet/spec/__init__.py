"""A pipeline file: strict YAML, schema, rules, frozen models, and what its SQL reads."""
