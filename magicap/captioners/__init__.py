"""What a captioner is: models and a decoding behind one face, in memory and on disk."""
