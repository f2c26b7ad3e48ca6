"""The two models of a captioner: one that writes, one that compares pictures with text."""
