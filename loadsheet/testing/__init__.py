"""`loadsheet test`: a pipeline's transforms on given rows, in a database that is made for it and thrown away."""
