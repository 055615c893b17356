"""From sources of patches to batches on a device."""
