"""Pure functions from our types to Block Kit."""
