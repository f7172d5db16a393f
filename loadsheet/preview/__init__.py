"""What a run would do with the servers in their current state. Reads only, writes nothing."""
