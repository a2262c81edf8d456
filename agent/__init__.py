"""The product: service, graph, approvals, tools and model. Knows neither Slack nor HTTP."""
