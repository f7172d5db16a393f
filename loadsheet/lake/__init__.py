"""Objects in the lake: parts, manifests, and which of them are garbage."""
