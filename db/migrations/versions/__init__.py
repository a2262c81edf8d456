"""One file per revision; a shipped one is frozen."""
