"""MAGI-1, small and trained: upstream's architecture at a size that two CPU cores can train and run."""
