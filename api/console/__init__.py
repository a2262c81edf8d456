"""The web console: static files and the way in."""
