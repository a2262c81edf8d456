"""Front door: REST and the web console. It authenticates, calls the service, and renders; it decides nothing."""
