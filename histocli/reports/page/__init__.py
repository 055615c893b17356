"""The HTML report: what it shows, its charts, its galleries, and the template that writes them as one page."""
