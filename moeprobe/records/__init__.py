"""Record what the experts were really given: hooks on, one Record per router call, hooks always off again."""
