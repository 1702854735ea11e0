"""The frozen two-tower model, its prompts, its tokenizer and the cache of its image features."""
