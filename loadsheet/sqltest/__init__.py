"""`loadsheet test`: builds a pipeline's transforms from given rows in a throwaway database."""
