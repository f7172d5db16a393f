"""What a run would do with the servers as they are, and what changed since a revision: reads, and
writes nothing."""
