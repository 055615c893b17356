"""Reports of the commands as dataclasses, the model card, and plots."""
