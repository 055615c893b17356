"""Typed reports, and what is made from them: tables, plots, the model card."""
