"""The networks of the bundled demo models, and what they can be asked for; need torch alone."""
