"""SQL as text only: identifiers, COPY, merges, types, parsing. No driver."""
