"""A bundle for any labelled data set: its fingerprint, the plan that follows from it, and the bundle that is written."""
