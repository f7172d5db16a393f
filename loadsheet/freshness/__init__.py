"""How old the rows of tables and marts are, and which are late. Read-only."""
