"""The sandbox: programs of other people, run with only what was declared for them."""
