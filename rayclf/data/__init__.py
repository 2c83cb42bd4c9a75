"""Files to canonical rows: formats, columns, targets, rows, split, tokens, and the stream that feeds training."""
