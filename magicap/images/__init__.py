"""Pictures as bytes, arrays and files in folders, all read by one reader."""
