SELECT key, weight, declared FROM key_weights ORDER BY key
