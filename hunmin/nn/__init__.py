"""What a transformer is: blocks, masks, caches and heads. Knows no checkpoint name, no task and no file."""
