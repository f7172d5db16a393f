"""A project: its folder, its pipeline files checked together, its declared connections and pools."""
