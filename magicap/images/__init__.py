"""Pictures as bytes, arrays and files in folders, all read through one door."""
