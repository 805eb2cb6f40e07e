"""The Prefect blocks: *Task Queue*, *Organism* and *Ray Cluster*."""
