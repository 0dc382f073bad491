"""From text to token ids and back: tokenizer, vocabulary, chat template."""
