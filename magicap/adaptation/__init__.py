"""A captioner for another domain, from its sentences alone."""
