"""Scripts for those who work on histo: the release files, and the audit of the dependencies."""
