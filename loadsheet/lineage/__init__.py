"""Column lineage: which source columns a mart's column comes from, and which marts a source column
reaches (`loadsheet lineage`)."""
