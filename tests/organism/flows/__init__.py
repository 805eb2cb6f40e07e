"""A user's own package, which happens to be called `flows` like one of the folders of Organism Flows."""
