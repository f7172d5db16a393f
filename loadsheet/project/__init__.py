"""A project: its folder, the check of its pipeline files, its declared connections and pools."""
