"""From augmented points to what a model takes: feature columns, range masks, sampling, voxels."""
