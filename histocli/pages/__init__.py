"""The pages that people read: the HTML report and the model card, with their templates."""
