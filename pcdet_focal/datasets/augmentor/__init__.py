"""Training-time augmentation: of the whole scene, of single objects, and by pasting objects from a database."""
