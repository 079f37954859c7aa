"""The race: the same job as served by what people would use instead, in environments of their own."""
