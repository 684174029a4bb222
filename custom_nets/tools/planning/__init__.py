"""A bundle for any labelled data set: its fingerprint, the plan that follows, and the files that are written."""
