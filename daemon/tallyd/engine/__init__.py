"""The rules of the business, pure: values in, values out. No I/O, no clock, no randomness, no await."""
