"""Approvals: the human decision that one tool call needs."""
