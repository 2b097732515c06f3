"""The gate laboratory: other score functions and balance rules, tried on logits that a model really produced."""
