"""What a change to a pipeline file means: which steps differ, and what happens to the data."""
