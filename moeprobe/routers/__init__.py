"""Find the routers of a model, read their facts, verify them. What is live stays here; facts go to findings."""
