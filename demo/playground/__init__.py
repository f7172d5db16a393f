"""`python -m demo.playground`: a source with a few tables, an empty warehouse and a lake, for the
tutorial."""
