"""Patches on disk, their manifests, and batches of them on a device."""
